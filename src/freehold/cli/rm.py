"""freehold rm: delete what was fetched."""

import click

from freehold.cli.common import human_bytes


@click.command(name="rm")
@click.argument("ref")
def command(ref: str) -> None:
    """Delete the files of REF, a model that was fetched. Files of yours are never touched."""
    from freehold.store.references import remove

    click.echo(f"{ref}: {human_bytes(remove(ref))} are free again")
