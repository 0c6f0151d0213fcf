"""A robot's memory of what it has seen and been told."""

__version__ = "0.1.0"
