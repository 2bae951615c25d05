"""Export of a run: one Keras model, backbone and head, from raw pixels to probabilities."""
