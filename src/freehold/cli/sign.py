"""freehold sign: put a name to a model's files."""

import sys
from pathlib import Path

import click


@click.command(name="sign")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Private key: elliptic curve, PEM.")
@click.option(
    "--signature", type=click.Path(path_type=Path), help="Where it goes [default: MODEL/model.sig or MODEL.sig]."
)
def command(model: Path, key: Path, signature: Path | None) -> None:
    """Sign every file of MODEL, a folder or a file, by the OpenSSF model signing format; offline.

    A key is made with openssl, for example on the curve P-256:

    \b
      openssl ecparam -name prime256v1 -genkey -noout -out key.pem
      openssl ec -in key.pem -pubout -out key.pub

    Keep key.pem to yourself; with key.pub anybody can verify. Files of git, such as .gitignore, are left out.
    """
    from freehold.inspection.trust.signatures import sign, signature_path

    where = signature or signature_path(model)
    ask = (lambda: click.prompt(f"Password of {key}", hide_input=True, err=True)) if sys.stdin.isatty() else None
    count = sign(model, key, where, ask)
    click.echo(f"{count} file{'' if count == 1 else 's'} signed: {where}")
