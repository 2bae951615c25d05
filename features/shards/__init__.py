"""Shards: immutable HDF5 files of features, and the validation of untrusted ones."""
