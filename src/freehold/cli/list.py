"""freehold list: the models that are here, and those that there are."""

from typing import Any

import click

from freehold.cli.common import human_bytes, print_json


@click.command(name="list")
@click.argument("text", required=False)
@click.option("--all", "show_all", is_flag=True, help="The whole catalogue, and what fits this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(text: str | None, show_all: bool, as_json: bool) -> None:
    """The models that were fetched; with --all those of the catalogue. TEXT: a part of a name or a lab."""
    rows = [row for row in (_catalogue() if show_all else _here()) if _matches(row, text)]
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("none" if text else "none yet: freehold run fetches the default, freehold list --all shows more")
    else:
        _print(rows)


def _matches(row: dict[str, Any], text: str | None) -> bool:
    return not text or any(text.lower() in str(row[key]).lower() for key in ("name", "lab", "ref") if key in row)


def _here() -> list[dict[str, Any]]:
    from freehold.store.references import fetched

    return [
        {"name": name, "size": size, "licence": licence or "not stated", "ref": ref, "path": str(path)}
        for name, size, licence, ref, path in fetched()
    ]


def _catalogue() -> list[dict[str, Any]]:
    from freehold.engine.memory import available_memory
    from freehold.store.catalogue import CATALOGUE

    memory = available_memory()
    return [
        {
            "name": entry.name,
            "lab": entry.lab,
            "size": entry.num_bytes,
            "memory": entry.memory_bytes,
            "fits": entry.memory_bytes <= memory,
            "licence": entry.licence,
            "ref": entry.ref,
            "what": entry.description,
        }
        for entry in CATALOGUE
    ]


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = [key for key in ("name", "memory", "fits", "size", "licence", "what", "ref") if key in rows[0]]
    if "what" in columns:
        columns.remove("size")
        columns.remove("ref")
    table = Table(box=None)
    for column in columns:
        longest = max(len(_cell(row[column])) for row in rows)
        table.add_column(column, no_wrap=True, min_width=None if column == columns[-1] else longest)
    for row in rows:
        table.add_row(*(_cell(row[key]) for key in columns), style="dim" if row.get("fits") is False else None)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return human_bytes(value) if isinstance(value, int) else str(value)
