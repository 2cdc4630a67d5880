"""Inference tile by tile, with the same result as in one pass over the whole section."""
