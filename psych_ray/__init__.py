"""psych_ray asks which language models behave like people: it scores human responses under many checkpoints."""

__version__ = "0.1.0"
