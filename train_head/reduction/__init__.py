"""Reduction of features to a few hundred inputs: their coordinates in a basis of the training features' span."""
