"""freehold show: what a model is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from freehold.cli.common import KV_TYPE, download_progress, human_bytes, print_json, to_examine
from freehold.errors import FreeholdError

if TYPE_CHECKING:
    from rich.console import Console

    from freehold.store.references import StoredModel


@click.command(name="show")
@click.argument("model", required=False)
@click.option("--context", type=int, metavar="TOKENS", help="Context to compute memory for [default: as trained].")
@click.option("--kv-type", **KV_TYPE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str | None, context: int | None, kv_type: str, as_json: bool) -> None:
    """What MODEL (a catalogue name, a .gguf file or a folder) is, and the memory it will need; a report in short.

    Reads no weights but samples of them; freehold inspect says more.
    """
    import freehold
    from freehold.store.digest import sha256_of_files
    from freehold.store.references import resolve

    with download_progress() as progress:
        stored = resolve(model, progress=progress)
    info = freehold.describe(model, context=context, kv_format=kv_type)
    file = {"": stored.path}
    info["sha256"] = info["sha256"] or sha256_of_files(file, only_remembered=True).get("")
    if as_json:
        print_json(info | {"summary": _summary(stored)})
        return
    from rich.console import Console

    console = Console(highlight=False)
    _print(console, _rows(info))
    summary = _summary(stored)  # takes a second: what is known before is shown before
    console.print()
    rows = [(row["label"], row["value"]) for row in summary.get("rows", ())]
    _print(console, rows or [("not examined", summary["error"])])


def _print(console: "Console", rows: Sequence[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")  # a digest is told whole
    for name, value in rows:
        table.add_row(Text(name, "bold"), Text(value))
    console.print(table)


def _summary(stored: "StoredModel") -> dict[str, Any]:
    """The report in short, or the error for which there is none."""
    from freehold.inspection.report import inspect

    try:
        return inspect(to_examine(stored), hash_files=False).summary().to_dict()
    except FreeholdError as error:
        return {"error": "; ".join(filter(None, (error.message, error.hint)))}


def _rows(info: dict[str, Any]) -> list[tuple[str, str]]:
    memory = info["memory"]
    formats = [
        f"{kind}: {', '.join(f'{form} x {count}' if count > 1 else form for form, count in counts.items())}"
        for kind, counts in info["quantization"].items()
    ]
    further = ", and one that foresees the token after the next" if info["next_token_layer"] else ""
    licence = ", ".join(f"{key.removeprefix('general.')}: {value}" for key, value in info["licence"].items())
    return [
        ("name", str(info["name"])),
        ("file", f"{info['file']} ({human_bytes(info['file_bytes'])})"),
        ("sha256", info["sha256"] or "not computed"),
        ("architecture", info["architecture"]),
        ("parameters", f"{info['parameters'] / 1e6:,.1f} M"),
        ("layers", f"{info['layers']}, {info['hidden_size']} wide{further}"),
        ("heads", f"{info['heads']} of {info['head_dim']}, {info['kv_heads']} for keys and values"),
        ("quantization", "\n".join(formats)),
        ("not used", ", ".join(f"{place}: {count} tensors" for place, count in info["unused"].items()) or "nothing"),
        ("context", f"{info['context']} tokens (trained: {info['trained_context']})"),
        ("vocabulary", f"{info['vocabulary_size']} tokens ({info['tokenizer']['model']}, {info['tokenizer']['pre']})"),
        ("chat template", f"sha256 {info['template_sha256']}" if info["template_sha256"] else "none"),
        ("licence", licence or "the file does not say"),
        ("memory: weights", human_bytes(memory["weights_bytes"])),
        *_experts_rows(memory),
        ("memory: activations", human_bytes(memory["activations_bytes"])),
        (
            "memory: KV cache",
            f"{human_bytes(memory['kv_bytes_per_token'])} a token, "
            f"{human_bytes(memory['kv_bytes_at_context'])} at {info['context']} tokens "
            f"({', '.join(f'{name}: {form}' for name, form in memory['cache_formats'].items())})",
        ),
        ("memory: in all", human_bytes(memory["total_bytes"])),
    ]


def _experts_rows(memory: dict[str, Any]) -> list[tuple[str, str]]:
    if not memory["experts_bytes"]:
        return []
    total, here = memory["experts_bytes"], memory["experts_in_memory_bytes"]
    rest = "all in memory on this machine"
    if here < total:
        rest = f"{human_bytes(here)} in memory on this machine, the rest read from the file when it is used"
    return [("memory: experts", f"{human_bytes(total)} of the weights; {rest}")]
