"""The core: text to token spans to likelihoods, with torch and transformers alone. Usable in a notebook."""
