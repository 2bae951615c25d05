"""Advice: which features to train on, and whether more pictures would help."""
