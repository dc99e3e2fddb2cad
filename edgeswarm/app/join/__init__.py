"""Joining a fleet: the device's side."""
