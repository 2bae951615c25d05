"""Sweeps: many heads fitted on the features of one extraction."""
