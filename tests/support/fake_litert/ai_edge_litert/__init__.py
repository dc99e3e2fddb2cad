"""Not LiteRT: see interpreter.py."""
