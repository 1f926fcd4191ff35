"""freehold serve: models over HTTP."""

import math
import tomllib
from pathlib import Path
from typing import Any

import click

from freehold.cli.common import KV_TYPE, to_examine
from freehold.errors import RequestError


def _from_file(ctx: click.Context, _: Any, path: Path | None) -> None:
    """Values of a TOML file, named as the flags are, become their defaults."""
    if path is None:
        return
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"--config {path}: {error}") from None
    known = {
        option.removeprefix("--").replace("-", "_"): parameter
        for parameter in ctx.command.params
        if parameter.name != "config"
        for option in parameter.opts
    }
    values = {}
    for name, value in given.items():
        parameter = known.get(name.replace("-", "_"))
        if parameter is None:
            raise RequestError(f"--config {path}: {name!r} is unknown", f"known: {', '.join(sorted(known))}")
        is_list = parameter.multiple or parameter.nargs == -1
        said = value if is_list and isinstance(value, list) else [value]
        if any(isinstance(one, (dict, list)) for one in said):
            raise RequestError(f"--config {path}: {name}: expected one value, got {value!r}")
        texts = list(map(str, said))  # as on the command line, so that 80.5 is no port here either
        values[parameter.name] = texts if is_list else texts[0]
    ctx.default_map = values


class _FiniteRange(click.FloatRange):
    """Not a number lies in no range, and infinity is no amount."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def _option(*names: str, **attributes: Any) -> Any:
    long = next(name for name in names if name.startswith("--"))
    return click.option(*names, envvar="FREEHOLD_" + long[2:].upper().replace("-", "_"), show_envvar=True, **attributes)


@click.command(name="serve")
@click.argument("models", nargs=-1, metavar="[MODEL]…", envvar="FREEHOLD_MODELS")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_from_file,
    envvar="FREEHOLD_CONFIG",
    help="A TOML file that says what these options say.",
)
@_option("--host", default="127.0.0.1", show_default=True)
@_option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@_option("--api-key", multiple=True, metavar="KEY", help="Requests must bring one of these.")
@_option("--api-key-file", type=click.Path(path_type=Path), help="A file with a key on each line.")
@_option("--admin-key", metavar="KEY", help="Switches on the routes that load and unload models.")
@_option("--allowed-host", multiple=True, metavar="NAME", help="A name under which the server may be asked.")
@_option("--origin", multiple=True, metavar="URL", help="A page's origin that may ask (CORS).")
@_option("--tls-certificate", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_option("--tls-key", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_option("--context", type=int, metavar="TOKENS", help="Context length [default: as trained].")
@_option("--threads", type=int, metavar="N", help="Threads [default: all cores].")
@_option("--kv-type", **KV_TYPE)
@_option("--quantize", metavar="FORMAT", help="Quantize unquantized weights: q8_0, q4_0, q4_k_m, …")
@_option(
    "--memory",
    type=_FiniteRange(0, min_open=True),
    metavar="GB",
    help="What all loaded models may take together; the least used goes first [default: what the machine has].",
)
@_option("--max-waiting", type=click.IntRange(1, 100_000), default=256, show_default=True, help="Requests.")
@_option("--max-body", type=click.IntRange(1, 1024), default=16, show_default=True, metavar="MB")
@_option(
    "--drain",
    type=_FiniteRange(0, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="What running replies get when the server is told to stop.",
)
@_option("--log-prompts", is_flag=True, help="Write the texts of prompts and replies into the log too.")
@_option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
def command(models, api_key, api_key_file, allowed_host, origin, memory, max_body, drain, log_level, **options):
    """Serve models over HTTP: the OpenAI, Anthropic and Ollama protocols, and a chat page.

    MODEL is a catalogue name, a .gguf file or a folder; the first is loaded at once, others when they are asked for.
    Values of lists are set apart by spaces in environment variables; models are named by FREEHOLD_MODELS.
    """
    try:
        from freehold.serve.run import serve
    except ModuleNotFoundError as error:
        raise RequestError(f"serve: {error.name} is not installed", "pip install 'freehold[serve]'") from None
    from freehold.serve.settings import Settings

    keys = list(api_key)
    if api_key_file:
        try:
            in_file = [key for line in api_key_file.read_text().splitlines() if (key := line.strip())]
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"--api-key-file {api_key_file}: {error}") from None
        if not in_file:  # without a key everybody could ask, which nobody wants who names a file of keys
            raise RequestError(f"--api-key-file {api_key_file}: holds no key")
        keys += in_file
    settings = Settings(
        models=tuple(models),
        api_keys=tuple(keys),
        allowed_hosts=tuple(allowed_host),
        origins=tuple(origin),
        memory_bytes=None if memory is None else int(memory * 1e9),
        max_body_bytes=max_body << 20,
        drain_s=drain,
        **options,
    )
    serve(settings, _examine, log_level)


def _examine(ref: str) -> dict[str, Any]:
    """What `freehold inspect` says of a model; where its files lie on this machine is nobody else's business."""
    from freehold.inspection.report import inspect
    from freehold.store.references import resolve

    report = inspect(to_examine(resolve(ref)), hash_files=False)
    facts = report.to_dict()
    del facts["path"]
    return {"summary": report.summary().to_dict(), "report": facts}
