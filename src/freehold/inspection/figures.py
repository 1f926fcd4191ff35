"""Figures as a reader takes them in."""


def count(value: float) -> str:
    """Of things: "134.5 M"."""
    for factor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value:.4g}"


def si(value: float) -> str:
    """Before a unit: "1.69 G"."""
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} "


def in_bytes(value: float) -> str:
    return f"{si(value)}B"
