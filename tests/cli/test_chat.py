"""The interactive chat on a terminal of its own."""

import json
import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

FREEHOLD = Path(sys.executable).with_name("freehold")


class Terminal:
    """A chat on a pseudo-terminal."""

    def __init__(self, home, *arguments):
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            environment = os.environ | {"FREEHOLD_HOME": str(home), "TERM": "dumb"}
            os.execve(FREEHOLD, [FREEHOLD, "run", *map(str, arguments)], environment)
        self._come = b""

    def until(self, pattern=rb">>> $", timeout_s=60):
        """What has come up to `pattern`."""
        end = time.monotonic() + timeout_s
        while not re.search(pattern, self._come):
            assert time.monotonic() < end, self._come
            if select.select([self._fd], [], [], 0.2)[0]:
                self._come += os.read(self._fd, 65536)
        come, self._come = self._come.decode(errors="replace"), b""
        return come.replace("\r\n", "\n")

    def send(self, text, pattern=rb">>> $"):
        os.write(self._fd, text if isinstance(text, bytes) else text.encode())
        return self.until(pattern)

    def say(self, line):
        return self.send(line + ("\r" if isinstance(line, str) else b"\r"))

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def chat(smollm, tmp_path):
    terminal = Terminal(tmp_path / "home", smollm, "--max-tokens", 8, "--temperature", 0)
    terminal.until()
    yield terminal
    terminal.kill()


def test_a_conversation_is_saved_and_loaded(chat, tmp_path):
    assert "[prompt" in chat.say("Say hello.")
    assert "saved 2 messages" in chat.say(f"/save {tmp_path / 'a.json'}")
    chat.say("/clear")
    assert "loaded 2 messages" in chat.say(f"/load {tmp_path / 'a.json'}")
    assert json.loads((tmp_path / "a.json").read_text())[0] == {"role": "user", "content": "Say hello."}


def test_files_that_are_not_what_they_should_be(chat, tmp_path):
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "half").write_text('[{"role": "user", "content": "\\ud800"}]')
    assert "error: ~nobody-of-that-name/x: Could not determine home" in chat.say("/load ~nobody-of-that-name/x")
    assert "error: ~nobody-of-that-name/x: Could not determine home" in chat.say("/save ~nobody-of-that-name/x")
    assert "deep: not JSON" in chat.say(f"/load {tmp_path / 'deep'}")
    assert "error: not UTF-8 text, at character 0" in chat.say(f"/load {tmp_path / 'half'}")
    assert "/dev/full: " in chat.say("/load /dev/full")  # without end
    assert "/dev/full: cannot be written: No space left" in chat.say("/save /dev/full")
    assert "[prompt" in chat.say("Say hello.")


def test_a_message_may_begin_as_a_command_does(chat):
    assert "[prompt" in chat.say('"""/* a comment of C */ int x;"""')
    assert "unknown command" in chat.say("/* a comment of C */ int x;")


@pytest.mark.parametrize("option", ["--raw", "--json"])
def test_options_that_a_chat_does_not_know(option, smollm, tmp_path):
    terminal = Terminal(tmp_path, smollm, option)
    assert f"error: {option}: needs a prompt" in terminal.until(rb"hint: .*\n")
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 2
