"""`edgeswarm run` as a process of its own, watched from outside: what it says, what it leaves behind."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tier import word

from edgeswarm.app import builder
from edgeswarm.drivers import keys
from edgeswarm.drivers.control import ControlClient

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
START_S = 20.0


def wait_for(condition: Callable[[], Any], what: str, *, within_s: float = 10.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.005)
    return found


def descendants(pid: int) -> dict[int, int]:
    """Every process below `pid`: its id and its start time, so that a number used again is not taken for it."""
    children: dict[int, list[int]] = {}
    started: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
        started[int(entry.name)] = int(fields[19])
    found: dict[int, int] = {}
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found[child] = started[child]
            todo.append(child)
    return found


def is_alive(pid: int, started: int) -> bool:
    """Not even a zombie of it is left that somebody would have to wait for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return False
    return int(fields[19]) == started and fields[0] != "Z"


class Daemon:
    """One `python -m edgeswarm run`."""

    def __init__(
        self, state: Path, *arguments: str, user: int | None = None, env: dict[str, str] | None = None
    ) -> None:
        self.state = state
        self.log = Path(tempfile.mkstemp(prefix="edgeswarm-log-")[1])
        command = [interpreter(user), "-m", "edgeswarm", "run", "--state", str(state), *arguments]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, cwd="/tmp",
                env={**environment(home=state), **(env or {})}, **as_user(user),
            )  # fmt: skip

    @property
    def sockets(self) -> list[Path]:
        return list((self.state / "run").glob("*.sock"))

    def ready(self) -> Daemon:
        def listening() -> bool:
            assert self.process.poll() is None, self.said()
            return bool(self.events("control_listening"))

        wait_for(listening, "the supervisor is ready", within_s=START_S)
        return self

    def client(self) -> ControlClient:
        [path] = self.sockets
        return ControlClient(path)

    def call(self, op: str, **args: Any) -> Any:
        with self.client() as client:
            return client.call(op, **args)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [line for line in self.said().splitlines() if line.startswith("{")]
        return [entry for entry in map(json.loads, lines) if entry["event"] == name]

    def end(self, number: int = signal.SIGTERM, *, within_s: float = 20.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(within_s)


Start = Callable[..., Daemon]


@pytest.fixture
def state() -> Iterator[Path]:
    """Short: the path of a socket has 107 bytes; below /tmp, so that another user may own one."""
    path = Path(tempfile.mkdtemp(prefix="es-", dir="/tmp"))
    path.chmod(0o755)
    yield path / "s"
    shutil.rmtree(path)


@pytest.fixture
def daemons() -> Iterator[Start]:
    """start(state, ...) -> a supervisor that is not ready yet; none outlives the test, with nothing it started."""
    made: list[Daemon] = []

    def start(state: Path, *arguments: str, **options: Any) -> Daemon:
        made.append(Daemon(state, *arguments, **options))
        return made[-1]

    yield start
    for daemon in made:
        below = descendants(daemon.process.pid)
        if daemon.process.poll() is None:
            daemon.end(signal.SIGKILL)
        wait_for(lambda: not [pid for pid, at in below.items() if is_alive(pid, at)], "its processes are gone")  # noqa: B023
        daemon.log.unlink()


def publisher(state: Path) -> keys.SigningKey:
    """Made on first use, and trusted."""
    key, made = keys.load_or_make(state / "keys" / "publisher.key")
    if made:
        keys.trust(state / "trust.d", key.public, "test")
    return key


def write_agent(path: Path, tree: dict[str, Any], model: Any, key: keys.SigningKey) -> bytes:
    data = builder.build(tree, model, key=key)
    path.write_bytes(data)
    return data


def command_line(*arguments: Sequence[str] | str | Path, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m edgeswarm ...`, as another user if wanted."""
    return python("-m", "edgeswarm", *map(str, arguments), user=user)


def python(*arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [interpreter(user), *arguments], capture_output=True, text=True, timeout=60, cwd="/tmp",
        env=environment(home=Path("/nonexistent")), check=False, **as_user(user),
    )  # fmt: skip


def environment(*, home: Path) -> dict[str, str]:
    """Ours without our settings, and with a path that every interpreter of this version can use."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("EDGESWARM_", "XDG_"))}
    path = os.pathsep.join((str(ROOT), *(entry for entry in sys.path if "site-packages" in entry)))
    return {**kept, **word(), "HOME": str(home), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def as_user(user: int | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


@functools.cache
def interpreter(user: int | None) -> str:
    """An interpreter that this user may run; ours may lie in a folder of root's."""
    if user is None:
        return sys.executable
    for name in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            subprocess.run([name, "-c", ""], check=True, cwd="/tmp", **as_user(user))
        except (OSError, subprocess.CalledProcessError):
            continue
        return name
    pytest.skip(f"user {user} may run no interpreter of this version")
