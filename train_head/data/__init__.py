"""Data: which examples train and validate, and their batches."""
