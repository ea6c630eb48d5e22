"""Engines that spread one checkpoint over several ranks."""
