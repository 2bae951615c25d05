"""Copy stores to and from URLs: whole shards, verified by their digests."""
