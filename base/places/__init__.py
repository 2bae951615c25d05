"""Places of pictures other than local folders: URLs, archives and shards, read by position."""
