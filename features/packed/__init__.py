"""Store as a single HDF5 file: a packed store, or the view `features.h5` of the shards."""
