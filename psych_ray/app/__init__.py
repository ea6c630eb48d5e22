"""What each command does, step by step. No Hydra, no rich."""
