"""Text as people write it: normalisation with its map back, and windows over long texts."""
