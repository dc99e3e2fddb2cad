"""A device in its cell: Raft where it votes, the feed where it learns, and what both make it do."""
