"""Shards: immutable HDF5 files of features, and how one from elsewhere is validated."""
