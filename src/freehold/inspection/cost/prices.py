"""What hosted APIs ask for the same model, by the list in the `genai-prices` package; nothing is fetched."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

# Words of a name that say how a model is packed or served, not which it is.
_PACKING = {"instruct", "chat", "it", "hf", "meta", "gguf", "awq", "gptq", "fp8", "bf16", "fp16", "int4", "int8",
            "fp4", "mxfp4", "nvfp4", "turbo", "preview", "maas", "versatile", "instant", "latest"}  # fmt: skip

_QUANTIZED = re.compile(r"[-.](ud-)?(i?q\d\w*|mxfp4\w*|b?f16)$")  # how GGUF files end


@dataclass(frozen=True, slots=True)
class ListPrice:
    """USD for a million tokens."""

    provider: str
    model: str
    input: float
    output: float


def list_prices() -> list[ListPrice]:
    """All that ask something for input and output; empty without the package."""
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return []
    found = []
    for provider in get_snapshot().providers:
        for model in provider.models:
            price: Any = model.get_prices(datetime.now(UTC))
            asked = _usd(getattr(price, "input_mtok", None)), _usd(getattr(price, "output_mtok", None))
            if asked[0] and asked[1]:
                found.append(ListPrice(provider.name, model.id, asked[0], asked[1]))
    return found


def prices_of(names: Iterable[str], prices: Iterable[ListPrice]) -> list[ListPrice]:
    """Those of the model that goes by one of these names, the cheapest output first."""
    wanted = {name for name in map(canonical, names) if name}
    same = [price for price in prices if ":" not in price.model and canonical(price.model) in wanted]
    return sorted(same, key=lambda price: (price.output, price.input))


def canonical(name: str) -> str:
    """A model's name without its owner, packing and punctuation: "meta-llama/Llama-3.1-8B-Instruct" -> llama318b."""
    name = _QUANTIZED.sub("", name.rsplit("/", 1)[-1].lower())
    name = re.sub(r"(?<=\d)p(?=\d)", ".", name)  # as providers write a point
    words = [word for word in re.split(r"[-_ ]+", name) if word and word not in _PACKING]
    return "".join(re.sub(r"[^a-z0-9]", "", word) for word in words)


def _usd(value: Any) -> float:
    base = getattr(value, "base", value)  # a price in tiers begins with its base
    return float(base) if base is not None else 0.0
