"""The interactive chat of `freehold run`."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from freehold.cli.run import figures, show_stream
from freehold.errors import FreeholdError, PromptTooLongError, RequestError
from freehold.store.references import models_folder

HELP = """\
/system TEXT   set the system prompt and start again    /clear       forget the conversation
/save FILE     write the conversation as JSON           /load FILE   go on with one
/help          this list                                /exit        leave (or Ctrl-D)
Several lines: begin and end with \"\"\", or end a line with \\.   Ctrl-C stops a reply."""


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
            while (text := self._read()) is not None:
                try:
                    if text.startswith("/"):
                        if not self._command(text):
                            break
                    elif text.strip():
                        self._reply(text)
                except FreeholdError as error:
                    click.echo(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), err=True)
        finally:
            _close_history(history)

    def _read(self) -> str | None:
        """One message, of one line or several; None at the end of input."""
        lines: list[str] = []
        block = False
        while True:
            try:
                line = input("... " if lines or block else ">>> ")
            except EOFError:
                click.echo(err=True)
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                click.echo(err=True)
                lines, block = [], False
                continue
            if not block and line.startswith('"""'):
                block, line = True, line[3:]
            if block:
                if line.endswith('"""'):
                    return "\n".join([*lines, line[:-3]]).strip("\n")
                lines.append(line)
            elif line.endswith("\\"):
                lines.append(line[:-1])
            else:
                return "\n".join([*lines, line])

    def _command(self, text: str) -> bool:
        """Carry out a /command; False leaves the chat."""
        name, _, argument = text.partition(" ")
        argument = argument.strip()
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
            (self._save if name == "/save" else self._load)(Path(argument).expanduser())
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
        try:
            messages = json.loads(path.read_text())
        except OSError as error:
            raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise RequestError(f"{path}: not JSON: {error}") from None
        valid = isinstance(messages, list) and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
        if not valid:
            raise RequestError(f'{path}: expected a list of {{"role": …, "content": …}}')
        self._messages = messages
        click.echo(f"loaded {len(messages)} messages", err=True)

    def _reply(self, text: str) -> None:
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
        self._messages.append({"role": "assistant", "content": "".join(reply)})
        click.echo(click.style(figures(stream.completion), dim=True), err=True)


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
