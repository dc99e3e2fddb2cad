"""Structured logs: one JSON object a line, stable event names, the cause id on everything.

`log.info("jail_exited", agent=..., code=...)`.  The standard library's logging does the writing; this module holds the
formatter, a ring of the last lines (what `edgeswarm logs` shows), and the bound logger.  No secrets, no sensor values.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

RING_LINES_MAX = 2_000  # about 400 KB: what an operator scrolls back through
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"fields"}


class JsonFormatter(logging.Formatter):
    """record.msg is the event's name, record.fields the key-values."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
        for key, value in (getattr(record, "fields", None) or _extras(record)).items():
            line[f"{key}_" if key in line else key] = value
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        try:
            return json.dumps(line, default=str, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError):  # NaN, keys that are no text, numbers too long to print
            return json.dumps({key: _text(value) for key, value in line.items()}, separators=(",", ":"))


def _text(value: object) -> str:
    try:
        return str(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that cannot be printed"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """What a driver's `extra=` put on the record."""
    return {key: value for key, value in vars(record).items() if key not in _PLAIN and key != "message"}


class RingHandler(logging.Handler):
    """Keeps the last lines, and hands each new one to whoever follows."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=RING_LINES_MAX)
        self.followers: set[Callable[[str], None]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        self.lines.append(line)
        for follower in list(self.followers):
            follower(line)


class Log:
    """One supervisor's log."""

    def __init__(self, *, level: str = "info", stream: TextIO | None = sys.stderr, name: str = "edgeswarm") -> None:
        self._logger = logging.Logger(name, level.upper())  # noqa: LOG001 - not shared: several supervisors, one process
        self.ring = RingHandler()
        self.ring.setFormatter(JsonFormatter())
        self.crashes, self.last_crash = 0, ""
        self._logger.addHandler(self.ring)
        if stream is not None:
            handler = logging.StreamHandler(stream)
            handler.setFormatter(JsonFormatter())
            self._logger.addHandler(handler)

    def listen(self, name: str) -> None:
        """Take in what the drivers log under `name`; for the one supervisor of a process."""
        drivers = logging.getLogger(name)
        drivers.setLevel(self._logger.level)
        drivers.handlers = list(self._logger.handlers)
        drivers.propagate = False

    def debug(self, event: str, **fields: Any) -> None:
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: Any) -> None:
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: Any) -> None:
        self._logger.error(event, extra={"fields": fields})

    def crash(self, event: str, error: BaseException, **fields: Any) -> None:
        """A fault of ours: with its traceback's text in the field `error`."""
        self.crashes, self.last_crash = self.crashes + 1, f"{event}: {type(error).__name__}: {error}"
        self._logger.error(event, extra={"fields": fields}, exc_info=error)
