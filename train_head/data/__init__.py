"""Training data: splits, folds, and batches of features."""
