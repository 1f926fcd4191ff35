"""Freehold: use, change and see open AI models on the computer you already have."""

__version__ = "0.1.0"
