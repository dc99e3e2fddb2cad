"""An operator's way to the controller: its control socket on this machine, else MQTT with the console identity."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeswarm.app.fleet.folder import FleetFolder, default_path
from edgeswarm.drivers.control import ControlClient, NotRunningError

if TYPE_CHECKING:
    from edgeswarm.app.fleet.console import Console

CALL_S, FOLLOW_S = 120.0, 1_000_000.0


class Link(Protocol):
    """Answers are plain values.  Raises ControlError, NotRunningError, RemoteError, LimitError."""

    def call(self, what: str, **args: Any) -> Any: ...

    def follow(self, what: str, **args: Any) -> Iterator[Any]: ...


class SocketLink:
    """path: of the controller's control socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client = ControlClient(path, timeout_s=CALL_S)

    def close(self) -> None:
        self._client.__exit__()

    def call(self, what: str, **args: Any) -> Any:
        return self._client.call("fleet", what=what, args=args)

    def follow(self, what: str, **args: Any) -> Iterator[Any]:
        with ControlClient(self._path, timeout_s=FOLLOW_S) as client:
            yield from client.follow("fleet_follow", what=what, args=args)


class MqttLink:
    """console: connected on `runner`'s loop."""

    def __init__(self, runner: asyncio.Runner, console: Console) -> None:
        self._runner, self._console = runner, console

    def call(self, what: str, **args: Any) -> Any:
        return self._runner.run(self._console.call(what, args))

    def follow(self, what: str, **args: Any) -> Iterator[Any]:
        rows = self._console.follow(what, args)

        async def following() -> Any:
            return await anext(rows)

        try:
            while True:
                try:
                    yield self._runner.run(following())
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(rows.aclose())  # type: ignore[attr-defined]


def socket_path(folder: FleetFolder) -> Path:
    """Of the controller of this FLEET directory, whether it runs or not."""
    return folder.controller / "run" / f"{folder.config.controller}.sock"


@contextmanager
def open_link(fleet_dir: Path | None) -> Iterator[Link]:
    """fleet_dir: None takes the default (folder.default_path).

    Raises ConfigError where there is no fleet, NotRunningError, LinkError where the broker cannot be reached.
    """
    folder = FleetFolder(fleet_dir or default_path())
    path = socket_path(folder)
    if (folder.controller / "swarm" / "cell.toml").exists():  # it is at home here, so it is asked here
        try:
            local = SocketLink(path)
        except NotRunningError as error:
            why = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
            raise NotRunningError(
                f"{folder.path}: its controller does not run ({path}: {why}); start it with `edgeswarm fleet serve`"
            ) from None
        try:
            yield local
        finally:
            local.close()
        return
    if not (folder.console / "swarm" / "cell.toml").exists():
        raise NotRunningError(f"{folder.path}: holds neither a controller nor a console (`fleet operator install`)")
    from edgeswarm.app.fleet.console import Console

    with asyncio.Runner() as runner:
        console = Console(folder.console, folder.config.controller)
        runner.run(console.__aenter__())
        try:
            yield MqttLink(runner, console)
        finally:
            runner.run(console.__aexit__())
