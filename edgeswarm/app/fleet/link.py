"""An operator's way to the controller: its control socket on this machine, else MQTT with the console identity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Link(Protocol):
    """Answers are plain values.  Raises ControlError, NotRunningError, RemoteError, LimitError."""

    def call(self, what: str, **args: Any) -> Any: ...

    def follow(self, what: str, **args: Any) -> Iterator[Any]: ...


@contextmanager
def open_link(fleet_dir: Path | None) -> Iterator[Link]:
    """fleet_dir: None takes the default (folder.default_path)."""
    raise NotImplementedError  # the lead writes this
    yield  # type: ignore[unreachable]
