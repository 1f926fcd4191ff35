"""The interactive chat of `freehold run`."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from freehold.cli.run import figures, show_stream
from freehold.errors import FreeholdError, PromptTooLongError, RequestError
from freehold.files import read_bytes
from freehold.store.references import models_folder

MAX_CONVERSATION_BYTES = 64 << 20
HELP = """\
/system TEXT   set the system prompt and start again    /clear       forget the conversation
/save FILE     write the conversation as JSON           /load FILE   go on with one
/help          this list                                /exit        leave (or Ctrl-D)
Several lines, or one that begins with /: in \"\"\" quotes; or end a line with \\.   Ctrl-C stops a reply."""


class Chat:
    """A conversation on a terminal."""

    def __init__(self, model: Any, sampling: dict[str, Any], system: str | None):
        self._model, self._sampling, self._system = model, sampling, system
        self._messages: list[dict[str, str]] = []
        self._clear()

    def loop(self) -> None:
        info = self._model.info
        click.echo(f"{info['name']} · context {info['context']} tokens · /help", err=True)
        history = _open_history()
        try:
            while (read := self._read()) is not None:
                text, is_block = read
                try:
                    if text.startswith("/") and not is_block:
                        if not self._command(text):
                            break
                    elif text.strip():
                        self._reply(text)
                except FreeholdError as error:
                    click.echo(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), err=True)
        finally:
            _close_history(history)

    def _read(self) -> tuple[str, bool] | None:
        """(a message, whether it stood in quotes, where a line that begins with / is no command); None at the end."""
        lines: list[str] = []
        block = False
        while True:
            try:
                line = input("... " if lines or block else ">>> ")
            except EOFError:
                click.echo(err=True)
                return ("\n".join(lines), block) if lines else None
            except KeyboardInterrupt:
                click.echo(err=True)
                lines, block = [], False
                continue
            if not block and line.startswith('"""'):
                block, line = True, line[3:]
            if block:
                if line.endswith('"""'):
                    return "\n".join([*lines, line[:-3]]).strip("\n"), True
                lines.append(line)
            elif line.endswith("\\"):
                lines.append(line[:-1])
            else:
                return "\n".join([*lines, line]), False

    def _command(self, text: str) -> bool:
        """Carry out a /command; False leaves the chat."""
        name, _, argument = text.partition(" ")
        argument = argument.strip()
        _check_text(argument)
        if name in ("/exit", "/quit", "/bye"):
            return False
        if name == "/help":
            click.echo(HELP, err=True)
        elif name == "/clear":
            self._clear()
        elif name == "/system":
            self._system = argument or None
            self._clear()
        elif name in ("/save", "/load") and argument:
            (self._save if name == "/save" else self._load)(_path(argument))
        else:
            raise RequestError(
                f"{text.split()[0]}: unknown command, or its file is missing", "/help lists the commands"
            )
        return True

    def _clear(self) -> None:
        self._messages = [{"role": "system", "content": self._system}] if self._system else []

    def _save(self, path: Path) -> None:
        try:
            path.write_text(json.dumps(self._messages, ensure_ascii=False, indent=2) + "\n")
        except OSError as error:
            raise RequestError(f"{path}: cannot be written: {error.strerror}") from None
        click.echo(f"saved {len(self._messages)} messages to {path}", err=True)

    def _load(self, path: Path) -> None:
        raw = read_bytes(path, MAX_CONVERSATION_BYTES)
        try:
            messages = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{path}: not JSON: {error}") from None
        valid = isinstance(messages, list) and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
        if not valid:
            raise RequestError(f'{path}: expected a list of {{"role": …, "content": …}}')
        for message in messages:
            _check_text(message["content"])
        self._messages = messages
        click.echo(f"loaded {len(messages)} messages", err=True)

    def _reply(self, text: str) -> None:
        _check_text(text)
        self._messages.append({"role": "user", "content": text})
        try:
            stream = self._model.stream_chat(self._messages, **self._sampling)
        except FreeholdError as error:
            self._messages.pop()
            if isinstance(error, PromptTooLongError):
                raise RequestError(
                    f"the conversation is full: {error.message}", "/clear starts again; nothing was sent"
                ) from None
            raise
        reply: list[str] = []
        try:
            show_stream(_collected(stream, reply))
        except KeyboardInterrupt:
            stream.close()
            sys.stdout.write("\n")
        except FreeholdError:
            self._messages.pop()  # nothing answers it
            raise
        self._messages.append({"role": "assistant", "content": "".join(reply)})
        click.echo(click.style(figures(stream.completion), dim=True), err=True)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # a user whom nobody knows
        raise RequestError(f"{text}: {error}") from None


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"not UTF-8 text, at character {error.start}", "nothing was sent") from None


def _collected(stream: Any, texts: list[str]) -> Any:
    for piece in stream:
        texts.append(piece.text)
        yield piece


def _open_history() -> Path | None:
    """Line editing with the history of earlier chats."""
    try:
        import readline
    except ImportError:
        return None
    path = models_folder().parent / "chat-history"
    readline.set_history_length(1000)
    with contextlib.suppress(OSError):  # none yet
        readline.read_history_file(path)
    return path


def _close_history(path: Path | None) -> None:
    if path is None:
        return
    import readline

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(path)
        path.chmod(0o600)
    except OSError as error:
        click.echo(f"the history was not saved: {error}", err=True)
