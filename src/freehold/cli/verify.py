"""freehold verify: are a model's files those that were signed?"""

from pathlib import Path

import click


@click.command(name="verify")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, help="The signer's public key, PEM.")
@click.option(
    "--signature", type=click.Path(path_type=Path), help="Where it is [default: MODEL/model.sig or MODEL.sig]."
)
def command(model: Path, key: Path, signature: Path | None) -> None:
    """Check that the files of MODEL are those that the owner of KEY signed, every byte of them; offline.

    Names each file that was changed, added or is missing, and then ends with exit code 2.
    """
    from freehold.inspection.trust.finding import visible
    from freehold.inspection.trust.signatures import signature_path, verify

    done = verify(model, key, signature or signature_path(model))
    count = len(done.files)
    click.echo(f"{count} file{' is' if count == 1 else 's are'} as signed by the owner of {key}")
    if done.ignored:
        click.echo(f"not covered, as the signer chose: {', '.join(visible(path) for path in done.ignored)}")
