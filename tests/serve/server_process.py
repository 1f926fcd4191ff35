"""A real `freehold serve` process, and the figures that it tells."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

FREEHOLD = Path(sys.executable).with_name("freehold")


class Server:
    """Started with a port of its own; `log` holds the lines of its stderr so far."""

    def __init__(self, *arguments, wait=True, env=None, **popen):
        arguments = ["--port", 0, *arguments]
        command = [FREEHOLD, "serve", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {}), **popen
        )
        self.log: list[str] = []
        self._told = threading.Event()
        self.url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._told.wait(60) and self.url, "\n".join(self.log)
        self.http = httpx.Client(base_url=self.url, timeout=60, verify=False)
        if wait:
            self.wait_ready()

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))
            if line.startswith("Freehold is at "):
                self.url = line.split()[-1]
                self._told.set()
        self._told.set()

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def wait_ready(self, timeout_s=60):
        self.wait_until(lambda: self.http.get("/ready").status_code == 200, timeout_s)

    def wait_until(self, condition, timeout_s=60):
        end = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, "\n".join(self.log)
            assert time.monotonic() < end, "it never came"
            time.sleep(0.02)

    def metric(self, name: str, **labels) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            found, _, rest = line.partition("{") if "{" in line else (*line.rpartition(" ")[:1], "", "")
            if found == name and all(f'{key}="{value}"' in rest for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def events(self, name: str) -> list[dict]:
        """Lines of the log that tell of `name`."""
        lines = [json.loads(line) for line in self.log if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def memory_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(30)
        self._reader.join(10)
        self.process.stderr.close()
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.stop()
