"""Pick a language model for every request, and learn from what users and judges say."""

__version__ = "0.1.0"
