"""Rollouts: what a device converges to, and when a wave may follow another.  Pure."""
