"""Catalog of a store: a SQLite database of images, features and shards."""
