"""Export: backbone and head as one Keras model from raw pixels to probabilities."""
