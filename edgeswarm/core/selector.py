"""Selectors of devices.  Pure."""
