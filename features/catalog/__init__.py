"""The catalog: which picture is where. SQLite, the only file of a store that changes, and its checksums."""
