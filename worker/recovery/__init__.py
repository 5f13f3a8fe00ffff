"""Ways back: dead letters to where they came from, and ranges of a topic through a model again."""
