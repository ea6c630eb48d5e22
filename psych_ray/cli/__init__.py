"""The commands. The only room that knows Hydra."""
