"""SPDX identifiers, as a card's lower-case names spell them."""

from functools import cache

from freehold.errors import UnsupportedError


@cache
def _names() -> dict[str, str]:
    try:
        from license_expression import get_spdx_licensing
    except ImportError:
        raise UnsupportedError(
            "a bill of materials needs license-expression", "pip install 'freehold[inspect]'"
        ) from None
    symbols = get_spdx_licensing().known_symbols.values()
    plain = (symbol.key for symbol in symbols if not symbol.is_exception and not symbol.key.startswith("LicenseRef-"))
    return {name.lower(): name for name in plain}


def spdx_name(name: str) -> str | None:
    """The identifier that `name` is, whatever its case; None when SPDX lists none."""
    return _names().get(name.strip().lower())
