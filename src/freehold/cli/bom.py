"""freehold bom: what a model is made of, in a form that other programs read."""

from pathlib import Path

import click


@click.command(name="bom")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["cyclonedx", "spdx"]),
    default="cyclonedx",
    show_default=True,
    help="CycloneDX 1.7 with a model card, or SPDX 3.0.1 with its AI profile.",
)
def command(model: Path, form: str) -> None:
    """Print the bill of materials of MODEL, a folder or a file, as JSON.

    It lists each file with its sha256, the base model, the licence and the data sets, as the model's card and metadata
    declare them; what they do not say is left out.
    """
    from freehold.cli.common import print_json
    from freehold.inspection.artefacts import Artefacts
    from freehold.inspection.trust.bom import bill_of_materials

    print_json(bill_of_materials(Artefacts(model), form))
