"""The server's log: one JSON object to a line."""

import json
import logging
import sys
from typing import Any

log = logging.getLogger("freehold.serve")


def note(event: str, **fields: Any) -> None:
    """A line that tells of `event`."""
    log.info(event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Time, level, event, and the fields given as `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": self.formatTime(record), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def log_lines(level: str) -> None:
    """Send what this package says, and what the HTTP server complains of, to stderr."""
    logging.raiseExceptions = False  # a full disk must not end a reply
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, least in (("freehold", level.upper()), ("uvicorn", "WARNING"), ("asyncio", "ERROR")):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(least)
        logger.propagate = False
