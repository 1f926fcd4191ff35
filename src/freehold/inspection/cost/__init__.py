"""What a model costs: to hold, to run for a token, here and where it is hosted, and what its training took.

Sizes come from shapes, speeds from a measurement when one is asked for, training from what the card states. Each price
and each estimate is named as what it is.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import Card, read_card
from freehold.inspection.cost.measure import Measured
from freehold.inspection.cost.prices import ListPrice, list_prices, prices_of
from freehold.inspection.cost.shapes import Shape, Sizes, sizes
from freehold.inspection.cost.training import LEAVES_OUT, Claim, Training, training_of
from freehold.inspection.figures import count, in_bytes, si
from freehold.inspection.findings import Evidence, Row, Section, Status
from freehold.inspection.trust.finding import visible

MAX_CONTEXT = 8192  # of which memory is told when nobody names a context


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices to reckon with. The defaults are ours, are printed, and are to be replaced by one's own."""

    power_usd_per_kwh: float = 0.30
    machine_usd_per_hour: float = 0.09  # 1,000 USD written off over four years of eight hours a day
    accelerator_usd_per_hour: float = 2.00  # the rent that DeepSeek-V3's report reckons with


@dataclass(frozen=True, slots=True)
class RunningCost:
    """Of a million tokens decoded on this machine."""

    hours: float
    kwh: float
    usd: float


@dataclass(frozen=True)
class CostReport:
    name: str
    sizes: Sizes | None
    context: int
    measured: Measured | None
    rates: Rates
    hosted: tuple[ListPrice, ...]
    training: Training

    @property
    def running(self) -> RunningCost | None:
        """A million tokens, one sequence at a time, at the measured speed and the stated rates."""
        if self.measured is None:
            return None
        hours = 1e6 / self.measured.decode_tokens_per_s / 3600
        kwh = hours * self.measured.watts / 1000
        return RunningCost(hours, kwh, hours * self.rates.machine_usd_per_hour + kwh * self.rates.power_usd_per_kwh)

    @property
    def verdict(self) -> str:
        shape = self.sizes.shape if self.sizes else None
        if shape is None:
            reason = self.sizes.reason if self.sizes and self.sizes.reason else "neither config.json nor GGUF"
            return f"not known: {reason}"
        memory = in_bytes(self._memory(self.context))
        active = f", {count(shape.active)} active" if shape.num_experts else ""
        return f"{count(shape.total)} parameters{active}; {memory} of memory for {self.context:,} tokens"

    def section(self) -> Section:
        notes = ()
        if self.training.tokens or self.training.hours:
            notes = (f"The training's figures are the card's and leave out: {LEAVES_OUT}.",)
        if self.sizes and self.sizes.bytes_assumed:
            notes += (f"Bytes: {self.sizes.bytes_assumed}.",)
        return Section("Cost", visible(self.verdict, 300), tuple(self._rows()), notes)

    def to_dict(self) -> dict[str, Any]:
        s, shape = self.sizes, self.sizes.shape if self.sizes else None
        return {
            "verdict": self.verdict,
            "parameters": {
                "total": shape.total if shape else None,
                "active": shape.active if shape else None,
                "stored": s.stored_values if s else None,
            },
            "weights_bytes": s.weights_bytes if s else None,
            "bytes_assumed": s.bytes_assumed if s else "",
            "read_bytes_per_token": s.read_bytes_per_token if s else None,
            "cache_bytes_per_token": shape.cache_bytes_per_token if shape else None,
            "state_bytes": shape.state_bytes if shape else None,
            "flops_per_token": shape.flops_per_token(0) if shape else None,
            "at_context": self._at_context(shape),
            "measured": asdict(self.measured) if self.measured else None,
            "million_tokens": asdict(self.running) if self.running else None,
            "rates": asdict(self.rates),
            "hosted": [asdict(price) for price in self.hosted],
            "training": self._training_dict(),
        }

    def _at_context(self, shape: Shape | None) -> dict[str, Any] | None:
        if shape is None:
            return None
        return {
            "context": self.context,
            "cache_bytes": shape.cache_bytes(self.context),
            "memory_bytes": self._memory(self.context),
            "flops_per_token": shape.flops_per_token(self.context),
        }

    def _training_dict(self) -> dict[str, Any] | None:
        t = self.training
        if not (t.tokens or t.hours):
            return None
        return {
            "parameters": _claim(t.parameters),
            "tokens": _claim(t.tokens),
            "hours": _claim(t.hours),
            "accelerator": t.accelerator.name if t.accelerator else None,
            "flops": t.flops,
            "utilisation": t.utilisation,
            "is_plausible": t.is_plausible if t.utilisation is not None else None,
            "estimated_hours": t.estimated_hours,
            "usd": self._rent(t),
            "leaves_out": LEAVES_OUT,
        }

    def _memory(self, context: int) -> int:
        assert self.sizes and self.sizes.shape
        return self.sizes.weights_bytes + self.sizes.shape.cache_bytes(context)

    # Rows.

    def summary(self) -> tuple[Row, ...]:
        return tuple(row for row in self._sizes() if row.label != "Computation")

    def _rows(self) -> Iterator[Row]:
        yield from self._sizes()
        yield from self._here()
        yield self._hosted_row()
        yield from self._training_rows(self.training)

    def _sizes(self) -> Iterator[Row]:
        if self.sizes is None:
            yield Row(
                "Parameters", "not evidenced: neither config.json nor a GGUF file that can be read", Status.UNKNOWN
            )
        elif self.sizes.shape is None:
            yield from self._counted(self.sizes)
        else:
            yield from self._of_shape(self.sizes, self.sizes.shape)

    def _counted(self, s: Sizes) -> Iterator[Row]:
        where = (Evidence(visible(s.file), "architecture"),)
        yield Row("Shapes", f"not known: {visible(s.reason, 200)}", Status.UNKNOWN, where)
        if s.stored_values:
            value = f"{count(s.stored_values)} values in {in_bytes(s.weights_bytes)} of weights, as they are stored"
            yield Row("Parameters", value, evidence=where)

    def _of_shape(self, s: Sizes, shape: Shape) -> Iterator[Row]:
        where = (Evidence(visible(s.file), "architecture", shape.architecture),)
        parameters = f"{count(shape.total)}, all of them for each token"
        if shape.num_experts:
            chosen = f"{shape.experts_per_token} of {shape.num_experts} experts"
            parameters = f"{count(shape.total)}, of which {count(shape.active)} for each token ({chosen})"
        if s.stored_values > shape.total * 1.001:
            parameters += f"; {count(s.stored_values - shape.total)} more are stored beside the language model"
        yield Row("Parameters", parameters, evidence=where)
        yield Row(
            "Weights",
            f"{in_bytes(s.weights_bytes)}, of which {in_bytes(s.read_bytes_per_token)} are read for a token",
            evidence=where,
        )
        state = f" and {in_bytes(shape.state_bytes)} of state a sequence" if shape.state_bytes else ""
        cache = f"{in_bytes(shape.cache_bytes_per_token)} a token{state}, in 16 bits"
        yield Row("Cache", cache if shape.cache_bytes_per_token else f"none by the token{state}", evidence=where)
        contexts = sorted({self.context, shape.trained_context})
        memory = "; ".join(f"{in_bytes(self._memory(n))} for {n:,} tokens" for n in contexts)
        yield Row("Memory", f"{memory}, weights and cache (trained for {shape.trained_context:,})", evidence=where)
        first, behind = shape.flops_per_token(0), shape.flops_per_token(self.context)
        yield Row("Computation", f"{si(first)}FLOP a token, {si(behind)}FLOP behind {self.context:,}", evidence=where)

    def _here(self) -> Iterator[Row]:
        m, running = self.measured, self.running
        if m is None or running is None:
            return
        speed = f"{m.prefill_tokens_per_s:,.0f} tokens/s read, {m.decode_tokens_per_s:,.1f} written"
        yield Row("Measured here", f"{speed} ({m.threads} threads, {m.isa})")
        source = "an estimate" if m.is_estimate else "by RAPL, whatever else ran included"
        yield Row("Energy", f"{m.joules_per_token:,.2f} J a token at {m.watts:,.0f} W ({source})")
        r = self.rates
        stated = f"at {r.power_usd_per_kwh:.2f} $/kWh and {r.machine_usd_per_hour:.2f} $/h for the machine"
        usage = f"{running.hours:,.1f} h, {running.kwh:,.2f} kWh, {running.usd:,.2f} $"
        yield Row("A million tokens here", f"{usage} ({stated}; one sequence at a time)")

    def _hosted_row(self) -> Row:
        if not self.hosted:
            return Row("Hosted", "no list price under this name", Status.UNKNOWN)
        outputs, inputs = [p.output for p in self.hosted], [p.input for p in self.hosted]
        cheapest, dearest = self.hosted[0], self.hosted[-1]
        value = (
            f"a million tokens written {min(outputs):.2f} to {max(outputs):.2f} $ (median {median(outputs):.2f}), "
            f"read {min(inputs):.2f} to {max(inputs):.2f} $; {len(self.hosted)} offers, "
            f"{cheapest.provider} to {dearest.provider}"
        )
        quoted = tuple(
            Evidence("genai-prices", visible(p.model), f"{p.provider}: {p.input:g}, {p.output:g} $")
            for p in self.hosted
        )
        return Row("Hosted", value, evidence=quoted)

    def _training_rows(self, t: Training) -> Iterator[Row]:
        if not (t.tokens or t.hours):
            yield Row("Training", "not evidenced: the card states neither tokens nor hours", Status.UNKNOWN)
            return
        evidence = tuple(c.evidence for c in (t.parameters, t.tokens, t.hours) if c)
        evidence += (t.accelerator_evidence,) if t.accelerator_evidence else ()
        if t.flops and t.parameters and t.tokens:
            of = f"6 x {count(t.parameters.value)} x {count(t.tokens.value)} tokens"
            yield Row("Training", f"{t.flops:.2e} FLOP ({of})", evidence=evidence)
        elif t.tokens:
            yield Row("Training", f"{count(t.tokens.value)} tokens; parameters are not evidenced", evidence=evidence)
        if t.hours is None:
            yield Row("Training hours", self._estimate(t), Status.UNKNOWN)
            return
        machine = t.accelerator.name if t.accelerator else "machines that are not named"
        rent = self.rates.accelerator_usd_per_hour
        hours = f"{count(t.hours.value)} hours of {machine}; {si(self._rent(t) or 0)}$ at {rent:.2f} $ an hour"
        if t.accelerator:
            hours += f"; {si(t.hours.value * t.accelerator.watts)}Wh by the boards alone (an estimate)"
        yield Row("Training hours", hours, evidence=evidence)
        yield self._utilisation(t, evidence)

    def _estimate(self, t: Training) -> str:
        if not t.estimated_hours:
            return "not evidenced"
        machine = t.accelerator.name if t.accelerator else "H100"
        usd = si(t.estimated_hours * self.rates.accelerator_usd_per_hour)
        return f"not stated; an estimate: {count(t.estimated_hours)} hours of {machine} at 40 % of its peak, {usd}$"

    def _utilisation(self, t: Training, evidence: tuple[Evidence, ...]) -> Row:
        if t.utilisation is None:
            return Row(
                "Utilisation", "not known: tokens, parameters, hours and hardware are not all stated", Status.UNKNOWN
            )
        share = f"{t.utilisation:.0%} of the peak in 16 bits"
        if t.is_plausible:
            return Row("Utilisation", f"{share}: the figures fit together", Status.GOOD, evidence)
        why = "more than trainings reach" if t.utilisation > 0.5 else "the hours hold more than this training"
        return Row("Utilisation", f"{share}: the figures do not fit together ({why})", Status.BAD, evidence)

    def _rent(self, t: Training) -> float | None:
        hours = t.hours.value if t.hours else t.estimated_hours
        return hours * self.rates.accelerator_usd_per_hour if hours else None


def examine(
    artefacts: Artefacts,
    card: Card | None = None,
    *,
    context: int | None = None,
    measured: Measured | None = None,
    rates: Rates | None = None,
) -> CostReport:
    """A model's cost; `measured`: by `cost.measure`.

    `context` in tokens is 8,192, or what the model was trained for, unless it is given.
    """
    card = read_card(artefacts) if card is None else card
    known = sizes(artefacts)
    shape = known.shape if known else None
    active = None
    if known and shape:
        active = Claim(float(shape.active), Evidence(visible(known.file), "architecture", shape.architecture))
    trained = shape.trained_context if shape else MAX_CONTEXT
    return CostReport(
        artefacts.name,
        known,
        context or min(trained, MAX_CONTEXT),
        measured,
        rates or Rates(),
        tuple(prices_of(_names(artefacts, card), list_prices())),
        training_of(card, active),
    )


def _names(artefacts: Artefacts, card: Card) -> list[str]:
    """What the model may be called in a list of prices."""
    gguf, config = artefacts.gguf, artefacts.config
    names = [artefacts.path.resolve().stem if artefacts.folder is None else artefacts.name]
    names += [config.get("_name_or_path"), gguf.get("general.name")]
    if gguf.get("general.basename") and gguf.get("general.size_label"):
        names.append(f"{gguf['general.basename']}-{gguf['general.size_label']}")
    if "quantized" in card.declared("base_model_relation"):
        names += card.declared("base_model")
    return [name for name in names if isinstance(name, str)]


def _claim(claim: Claim | None) -> dict[str, Any] | None:
    if claim is None:
        return None
    return {
        "value": claim.value,
        "file": claim.evidence.file,
        "place": claim.evidence.place,
        "quote": claim.evidence.quote,
    }
