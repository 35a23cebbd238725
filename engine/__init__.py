"""The sync engine: standard library only; knows nothing of terminals."""

__version__ = "0.1.0"
