"""Loads a checkpoint's files to a transformers model in memory."""
