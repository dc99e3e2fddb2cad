"""Rollouts: how a device converges to what it should run, and how a controller goes from wave to wave.  Pure."""
