"""freehold convert: a model in another form."""

from pathlib import Path

import click

from freehold.cli.common import download_progress, human_bytes


@click.command(name="convert")
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--quantize", metavar="FORMAT", help="bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, … [default: as it is].")
@click.option(
    "--importance",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An importance matrix in GGUF, as llama-imatrix writes it.",
)
def command(source: str, out: Path, quantize: str | None, importance: Path | None) -> None:
    """Write the model IN (a folder, a .gguf file, a reference) as OUT: a .gguf file, or a folder of safetensors."""
    from freehold.convert import convert
    from freehold.store.references import resolve

    with download_progress() as progress:
        stored = resolve(source, progress=progress)
    made = convert(stored.path, out, quantize=quantize, importance=importance)
    kept = "every value as it was" if made.lossless else "values rounded"
    formats = (
        f"{count} tensors {after if before == after else f'{before} → {after}'}"
        for (before, after), count in sorted(made.formats.items())
    )
    click.echo(f"{made.path}: {human_bytes(made.num_bytes)}, {kept}: {', '.join(formats)}")
    if made.left_out:
        click.echo(f"note: {len(made.left_out)} tensors are not written, {made.left_out[0]} among them", err=True)
