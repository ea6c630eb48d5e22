"""Simulated participants' language models: tiny checkpoints with known, planted differences."""
