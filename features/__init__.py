"""The feature store: immutable HDF5 shards and a catalog. Knows neither stage and no TensorFlow."""
