"""freehold bench: how fast a model runs here."""

import statistics
from typing import Any

import click

from freehold.cli.common import human_bytes, loaded, model_options, peak_memory_bytes, print_json
from freehold.errors import RequestError


@click.command(name="bench")
@click.argument("model", required=False)
@click.option("--prefill", default="128,512", show_default=True, help="Prompt lengths.")
@click.option("--depth", default="0,512,2048", show_default=True, help="Tokens before the decoded ones.")
@click.option("--batch", default="1,4,16", show_default=True, help="Sequences at once.")
@click.option("--tokens", type=click.IntRange(2), default=64, show_default=True, help="Tokens to decode.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--profile", is_flag=True, help="Show the time of each operation instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@model_options
def command(model, prefill, depth, batch, tokens, repeats, profile, as_json, **options):
    """Measure MODEL: prefill, decode at several depths, several sequences at once; medians, in tokens per second."""
    lengths, depths, batches = _numbers("prefill", prefill, 1), _numbers("depth", depth, 0), _numbers("batch", batch, 1)
    if profile and options["executor"] != "native":
        raise RequestError(f"--profile: the {options['executor']} executor does not time its operations")
    # Without speculation: how often it guesses right is the text's merit.
    with loaded(model, options, speculate=False) as loaded_model:
        bench = _Bench(loaded_model, tokens, repeats)
        rows = bench.profile(batches) if profile else bench.measure(lengths, depths, batches)
        machine = {key: loaded_model.info[key] for key in ("file", "isa", "threads")}
    if as_json:
        print_json({"machine": machine, "peak_memory_bytes": peak_memory_bytes(), "rows": rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(f"{value:,.1f}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{machine['isa']}, {machine['threads']} threads, peak memory {human_bytes(peak_memory_bytes())}")


def _numbers(name: str, text: str, least: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise RequestError(f"--{name}: expected numbers from {least} with commas between, got {text!r}")
    return numbers


class _Bench:
    def __init__(self, model: Any, tokens: int, repeats: int):
        self._model, self._tokens, self._repeats = model, tokens, repeats
        self._prompts = 0

    def _prompt(self, length: int) -> list[int]:
        """Tokens that no earlier prompt began with, so that the prefix cache does not answer."""
        self._prompts += 1
        vocabulary = self._model.info["vocabulary_size"]
        first = min(128, vocabulary // 4)  # among the first and the last are special tokens
        return [(self._prompts * 7919 + i * 104729) % (vocabulary - 2 * first) + first for i in range(length)]

    def _decode(self, depth: int, batch: int) -> float:
        """Tokens per second of all sequences while all decode."""
        prompts = [self._prompt(max(1, depth)) for _ in range(batch)]
        streams = [self._model.stream(p, max_tokens=self._tokens, ignore_eos=True, temperature=0.0) for p in prompts]
        for stream in streams:
            for _ in stream:
                pass
        requests = [stream.request for stream in streams]
        begin, end = max(r.first_token_at for r in requests), max(r.finished_at for r in requests)
        decoded = sum((self._tokens - 1) * (end - begin) / (r.finished_at - r.first_token_at) for r in requests)
        return decoded / (end - begin)

    def _prefill(self, length: int) -> float:
        prompts = [self._prompt(length)]
        return self._model.generate_tokens(prompts, max_tokens=1)[0].timings.prefill_tokens_per_s

    def measure(self, lengths: list[int], depths: list[int], batches: list[int]) -> list[dict[str, Any]]:
        context = self._model.info["context"]
        self._prefill(min(64, context - 1))  # warm up
        tasks = [("prefill", n, 1, 1, lambda n=n: self._prefill(n)) for n in lengths]
        tasks += [("decode", d, 1, self._tokens, lambda d=d: self._decode(d, 1)) for d in depths]
        tasks += [("decode", 32, b, self._tokens, lambda b=b: self._decode(32, b)) for b in batches if b > 1]
        rows = []
        for work, length, batch, tokens, run in tasks:
            if max(1, length) + tokens > context:
                click.echo(f"note: {work} at {length}: left out, the context holds {context} tokens", err=True)
                continue
            rates = [run() for _ in range(self._repeats)]
            rows.append(
                {
                    "work": work,
                    "prompt": length,
                    "sequences": batch,
                    "tokens/s": statistics.median(rates),
                    "lowest": min(rates),
                    "highest": max(rates),
                }
            )
        if not rows:
            raise RequestError(f"nothing to measure: the context holds {context} tokens", "ask for less, or --context")
        return rows

    def profile(self, batches: list[int]) -> list[dict[str, Any]]:
        """Where the time of a prefill and of decoding goes, operation by operation."""
        rows = []
        tasks = [("prefill", min(512, self._model.info["context"] - 1), 1, 1)]
        tasks += [("decode" if n == 1 else f"{n} sequences", 16, n, self._tokens) for n in batches]
        for work, prompt, count, tokens in tasks:
            self._model.executor.reset_profile()
            prompts = [self._prompt(prompt) for _ in range(count)]
            self._model.generate_tokens(prompts, max_tokens=tokens, ignore_eos=True)
            times = self._model.executor.profile()
            total = sum(seconds for *_, seconds in times)
            rows += [
                {"work": work, "operation": name, "calls": calls, "ms": seconds * 1e3, "%": 100 * seconds / total}
                for name, calls, seconds in times
                if calls
            ]
        return rows
