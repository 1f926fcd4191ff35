"""The `freehold` command. Each verb is a file of its own, imported when it is called."""

import errno
import importlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from freehold import __version__
from freehold.errors import FreeholdError

VERBS = {
    "run": "Ask a model, or chat with it.",
    "pull": "Fetch a model.",
    "list": "The models that are here, and those that there are.",
    "rm": "Delete a model that was fetched.",
    "show": "What a model is, and the memory it needs.",
    "convert": "Write a model in another form: GGUF, safetensors, quantized.",
    "inspect": "How open a model is, what its licence asks, whether to trust it.",
    "bench": "How fast a model runs here.",
    "serve": "Serve models over HTTP.",
    "sign": "Sign a model's files with a key.",
    "verify": "Check a model's files against a signature.",
    "bom": "A bill of materials of a model.",
    "doctor": "What this machine can do, and what is missing.",
    "new-architecture": "Begin a new architecture, in a checkout.",
}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"freehold.cli.{cmd_name.replace('-', '_')}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="freehold")
def cli() -> None:
    """Use, change and see open AI models on the computer you already have."""


def main() -> None:
    """Run the command: exit code 0; 2 for a user's mistake, in one line; 1 for a bug of ours; 130 when interrupted."""
    if sys.stdout is None:  # it was closed by who started us
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (as long as the process)
    try:
        cli(standalone_mode=False)
        sys.stdout.flush()
    except FreeholdError as error:
        _fail(error.message, error.hint)
    except click.ClickException as error:
        _fail(error.format_message(), _usage_hint(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader has gone, as with `| head`
        _drop_output()
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _report_bug(error)
        _drop_output()
        _fail(f"{error.filename or 'output'}: cannot be written: {error.strerror}", None)
    except Exception as error:
        _report_bug(error)


def _drop_output() -> None:
    """What is still to be written to standard output has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_bug(error: Exception) -> NoReturn:
    if os.environ.get("FREEHOLD_DEBUG"):
        raise error
    click.echo(f"internal error: {type(error).__name__}: {error}", err=True)
    click.echo("hint: this is a bug of ours; FREEHOLD_DEBUG=1 shows where, please report it", err=True)
    sys.exit(1)


def _usage_hint(error: click.ClickException) -> str | None:
    ctx: Any = getattr(error, "ctx", None)
    return f"{ctx.command_path} --help lists what it takes" if ctx else None


def _fail(message: str, hint: str | None) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(2)
