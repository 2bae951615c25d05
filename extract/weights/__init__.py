"""Weights: where the backbone's weights come from, and how their files are read."""
