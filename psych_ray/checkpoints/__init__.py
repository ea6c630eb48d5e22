"""Descriptions of checkpoints before they are loaded: cards, hub, files, sizes. Does not import torch."""
