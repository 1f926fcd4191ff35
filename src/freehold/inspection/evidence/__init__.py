"""What the artefacts show, topic by topic: files, the card's fields and sentences, a person's own statements."""

from freehold.inspection.evidence.facts import Fact, Standing
from freehold.inspection.evidence.gather import Facts, gather

__all__ = ["Fact", "Facts", "Standing", "gather"]
