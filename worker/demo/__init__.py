"""The embedded default: a broker in a wheel and sample records."""
