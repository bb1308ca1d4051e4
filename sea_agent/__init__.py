"""sea-agent: online active alignment of language models from few preference labels."""

__version__ = "0.1.0"
