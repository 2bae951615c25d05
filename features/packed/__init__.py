"""A store as one plain HDF5 file: written by `python -m features pack`, or as a view of the shards."""
