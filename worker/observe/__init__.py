"""What the operator sees: metrics and the live page."""
