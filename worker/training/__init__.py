"""From data to weights: labels, training, evaluation, export."""
