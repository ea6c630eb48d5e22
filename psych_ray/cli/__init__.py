"""The command line. The only package that imports Hydra."""
