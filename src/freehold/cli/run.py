"""freehold run: one answer, or a chat."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import click

from freehold.cli.common import human_bytes, loaded, model_options, peak_memory_bytes, print_json, seconds_since_start
from freehold.errors import RequestError

SAMPLING = (
    click.option("--temperature", type=float, default=0.7, show_default=True, help="0 takes the likeliest token."),
    click.option("--top-p", type=float, default=0.95, show_default=True),
    click.option("--top-k", type=int, default=0, help="0: all tokens."),
    click.option("--min-p", type=float, default=0.0),
    click.option("--repetition-penalty", type=float, default=1.0, show_default=True),
    click.option("--presence-penalty", type=float, default=0.0),
    click.option("--frequency-penalty", type=float, default=0.0),
    click.option("--seed", type=int, help="Makes the reply repeatable."),
    click.option("--max-tokens", type=int, help="[default: as far as the context goes]"),
    click.option("--stop", multiple=True, metavar="TEXT", help="Ends the reply before TEXT; may be given again."),
)
SAMPLING_NAMES = (
    "temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty seed max_tokens stop"
)


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(SAMPLING):
        command = option(command)
    return command


@click.command(name="run")
@click.argument("model", required=False)
@click.argument("prompt", required=False)
@click.option(
    "-p", "--prompt", "prompt_option", metavar="TEXT", help="The prompt, for the default model without naming it."
)
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when the reply is complete.")
@click.option("--logprobs", type=int, default=0, metavar="N", help="With --json: the N likeliest tokens at each step.")
@sampling_options
@model_options
def command(model, prompt, prompt_option, system, raw, as_json, logprobs, **options):
    """Ask MODEL (a catalogue name, a .gguf file or a folder), or chat with it when there is no prompt.

    Piped standard input becomes the prompt, after PROMPT if both are given. A last line on stderr says how fast it was.
    """
    prompt = _whole_prompt(model, prompt, prompt_option)
    if logprobs and not as_json:
        raise RequestError("--logprobs: needs --json")
    if raw and system:
        raise RequestError("--system: is said through the chat template, which --raw leaves out")
    if prompt is None and (raw or as_json):
        raise RequestError(f"{'--raw' if raw else '--json'}: needs a prompt", "a chat knows neither --raw nor --json")
    sampling = {name: options.pop(name) for name in SAMPLING_NAMES.split()}
    sampling["stop"] = list(sampling["stop"])
    with loaded(model, options) as loaded_model:
        if prompt is None:
            from freehold.cli.chat import Chat

            Chat(loaded_model, sampling, system).loop()
            return
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        sampling["logprobs"] = logprobs
        start = loaded_model.stream if raw else loaded_model.stream_chat
        with start(prompt if raw else messages, **sampling) as stream:
            first_token_s = show_stream(stream, quiet=as_json)
        if as_json:
            print_json(_as_json(stream.completion, loaded_model, first_token_s))
        else:
            click.echo(f"\n{figures(stream.completion, first_token_s)}", err=True)


def _whole_prompt(model: str | None, prompt: str | None, prompt_option: str | None) -> str | None:
    if prompt is not None and prompt_option is not None:
        raise RequestError("the prompt is given twice: as an argument and with --prompt")
    if model and prompt is None and any(character.isspace() for character in model):
        raise RequestError(
            f"{model!r} is not a model", 'a prompt alone goes with -p: freehold run -p "…"; or name a model before it'
        )
    parts = [text for text in (prompt, prompt_option) if text is not None]
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if not is_terminal and (piped := _piped()).strip():
        parts.append(piped)
    if not parts and not is_terminal:
        raise RequestError(
            "no prompt: standard input is empty", "give a prompt as an argument, or run on a terminal to chat"
        )
    return "\n\n".join(parts) if parts else None


def _piped() -> str:
    if sys.stdin is None:  # it was closed by who started us
        return ""
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"standard input: not UTF-8 text, at byte {error.start}") from None
    except OSError as error:
        raise RequestError(f"standard input: cannot be read: {error.strerror}") from None


def show_stream(stream: Any, *, quiet: bool = False) -> float:
    """Print pieces as they come; returns seconds from the start of the process to the first token."""
    first_token_s = 0.0
    safe = inert if sys.stdout.isatty() else str
    for piece in stream:
        first_token_s = first_token_s or seconds_since_start()
        if not quiet:
            sys.stdout.write(safe(piece.text))
            sys.stdout.flush()
    if not quiet:
        sys.stdout.write("\n")
    return first_token_s


def inert(text: str) -> str:
    """Model text for a terminal: control characters other than newline and tab become visible signs."""
    return "".join(c if c in "\n\t" or c.isprintable() or c == "\u200d" else _visible(c) for c in text)


def _visible(character: str) -> str:
    code = ord(character)
    return chr(0x2400 + code) if code < 32 else "\u2421" if code == 127 else "\ufffd" if code < 160 else character


def figures(completion: Any, first_token_s: float | None = None) -> str:
    """One line: tokens, rates, time to first token, memory."""
    usage, timings = completion.usage, completion.timings
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    from_start = f" ({first_token_s:.2f} s from process start)" if first_token_s else ""
    return (
        f"[prompt {usage.prompt_tokens} tokens{cached}, {timings.prefill_tokens_per_s:.0f} tokens/s"
        f" · reply {usage.completion_tokens} tokens, {timings.decode_tokens_per_s:.0f} tokens/s"
        f" · first token {timings.time_to_first_token_s:.3f} s{from_start}"
        f" · peak memory {human_bytes(peak_memory_bytes())} · {completion.finish_reason}]"
    )


def _as_json(completion: Any, model: Any, first_token_s: float) -> dict[str, Any]:
    from_start = {"first_token_from_process_start_s": first_token_s, "peak_memory_bytes": peak_memory_bytes()}
    return dataclasses.asdict(completion) | {"model": model.info["file"], "process": from_start}
