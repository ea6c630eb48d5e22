"""Engines that shard one checkpoint over several ranks."""
