"""Raft: a pure core on opaque bytes."""
