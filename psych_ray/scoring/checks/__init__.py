"""Checks of a loaded checkpoint: an engine against a reference forward pass."""
