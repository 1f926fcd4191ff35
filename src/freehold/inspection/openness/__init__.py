"""How open a model is, by three measures and in one line; see examine.py."""
