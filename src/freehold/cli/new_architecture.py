"""freehold new-architecture: the files that a new architecture starts from."""

import dataclasses
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from freehold.errors import FreeholdError, RequestError, UnsupportedError

REGISTRY, CASES, MODEL = "src/freehold/models/registry.py", "tests/parity/cases.py", "src/freehold/models/{name}.py"
TEMPLATE = '''"""{title}: {sibling} with a difference (say here which: norms, ropes, windows, biases, factors).

Paper: authors, year, title. Checkpoints: those that it runs.
Reference: transformers `models/{package}/modeling_{package}.py`.
"""

from freehold.models.{module} import {sibling}


class {title}({sibling}):
    """Override what differs from {sibling}, then delete this line; docs/new-architecture.md says what there is."""
'''

# Values of a config's own fields with which these are not without effect in a model of a few tiny layers.
TINY = dict(
    sliding_window=9,
    attention_bias=True,
    attention_out_bias=True,
    mlp_bias=True,
    use_bias=True,
    partial_rotary_factor=0.5,
    num_experts=8,
    num_local_experts=8,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=48,
    shared_expert_intermediate_size=40,
)
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
FACTOR = re.compile(r"multiplier|scale|scaling")
# Fields that say nothing of the forward, or what every decoder here reads.
USUAL = re.compile(
    r".*(_token_id|dropout|_pdrop)|initializer_range|use_cache|pretraining_tp|hidden_act|tie_word_embeddings"
    r"|rope_parameters|router_aux_loss_coef|output_router_logits"
)


@click.command(name="new-architecture")
@click.argument("name")
@click.option("--like", default="llama", show_default=True, metavar="NAME", help="The sibling that is nearest.")
def command(name: str, like: str) -> None:
    """Begin the architecture NAME, a model_type of transformers, in a checkout of Freehold.

    Writes a model file to fill in, a row in the registry and a case of the parity tests, which run at once.
    """
    root = find_checkout(Path.cwd())
    settings, left = begin(root, name, like)
    click.echo(f"{MODEL.format(name=name)}: {like} so far; write what differs")
    click.echo(f"{REGISTRY}: a row")
    click.echo(f"{CASES}: a case" + (f" that sets {', '.join(settings)}" if settings else ""))
    if left:
        click.echo(f"its config has fields that the case leaves alone: {', '.join(left)}")
    click.echo(f"next: pytest tests/parity -k {name}")


def find_checkout(folder: Path) -> Path:
    """The checkout of Freehold around a folder. Raises RequestError where there is none."""
    for root in (folder, *folder.parents):
        if (root / REGISTRY).is_file() and (root / CASES).is_file():
            return root
    raise RequestError(
        f"{folder}: expected a checkout of Freehold ({REGISTRY}, {CASES})", "clone the repository and run this in it"
    )


def begin(root: Path, name: str, like: str) -> tuple[list[str], list[str]]:
    """Write the three pieces: (names of the case's settings, names of those that it leaves alone).

    Nothing is written unless all can be. Raises RequestError, UnsupportedError.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        hint = f"a name is a model_type of transformers and a Python module, such as {like}"
        raise RequestError(f"{name!r}: expected small letters, digits and underscores", hint)
    model, registry, cases = root / MODEL.format(name=name), root / REGISTRY, root / CASES
    known = runpy.run_path(str(registry))["MODELS"]
    if like not in known:
        raise UnsupportedError(f"--like {like}: no such architecture", f"there are: {', '.join(known)}")
    if name in known or model.exists():
        raise RequestError(f"{name}: is here already", f"see {MODEL.format(name=known.get(name, name).split('.')[0])}")
    package, settings, left = _tiny_case(name, runpy.run_path(str(cases))["SIZES"])
    title = "".join(part.capitalize() for part in name.split("_"))
    module, sibling = known[like].split(".")
    new = {
        registry: _with_row(registry, "MODELS", f'    "{name}": "{name}.{title}",\n', is_sorted=True),
        cases: _with_row(cases, "CASES", _case_row(name, settings), is_sorted=False),
        model: TEMPLATE.format(title=title, sibling=sibling, package=package, module=module),
    }
    for path, text in new.items():
        path.write_text(text)
    return list(settings), left


def _tiny_case(name: str, sizes: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """(its package in transformers, settings that the case needs beside `sizes`, fields that they leave alone)."""
    try:
        from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
    except ImportError:
        hint = "python -m pip install --group parity"
        raise FreeholdError("transformers: not installed; it is the reference of parity tests", hint) from None
    if name not in CONFIG_MAPPING or CONFIG_MAPPING[name] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        hint = "without a reference there is no parity test; a newer transformers may have it"
        raise UnsupportedError(f"{name}: transformers has no language model of this model_type", hint)
    config = CONFIG_MAPPING[name]
    fields: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(config)}
    own = {key: value for key, value in fields.items() if key in config.__annotations__ and key not in sizes}
    settings: dict[str, Any] = {key: value for key, value in TINY.items() if key in own}
    settings |= {key: 0.7 for key, value in own.items() if FACTOR.search(key) and isinstance(value, float)}
    if "layer_types" in own and "sliding_window" in own:
        settings["layer_types"] = WINDOWS
    padding = own.get("pad_token_id")
    if isinstance(padding, int) and padding >= sizes["vocab_size"]:
        settings["pad_token_id"] = 0
    left = [key for key in own if key not in settings and not USUAL.fullmatch(key)]
    return config.__module__.split(".")[2], settings, left


def _case_row(name: str, settings: Mapping[str, Any]) -> str:
    """As the formatter would have it: on one line where it fits, else a line for each setting."""
    pairs = [f"{key}={value!r}".replace("'", '"') for key, value in settings.items()]
    row = f'    "{name}": ("{name}", dict({", ".join(pairs)})),\n' if pairs else f'    "{name}": ("{name}", {{}}),\n'
    if len(row) <= 121:
        return row
    lines = "".join(f"            {pair},\n" for pair in pairs)
    return f'    "{name}": (\n        "{name}",\n        dict(\n{lines}        ),\n    ),\n'


def _with_row(path: Path, table: str, row: str, *, is_sorted: bool) -> str:
    """The file's text with a row in a table, in its place by the alphabet or last."""
    lines = path.read_text().splitlines(keepends=True)
    start = lines.index(f"{table} = {{\n") + 1
    end = lines.index("}\n", start)
    place = next((i for i in range(start, end) if is_sorted and lines[i] > row), end)
    return "".join([*lines[:place], row, *lines[place:]])
