"""A fleet as a person has it: FLEET directory, mosquitto with mutual TLS, `fleet serve`, devices that joined; all real.

with fleet_rig(tmp_path) as rig:
    rig.serve()
    token = rig.token(uses=2)
    rig.join("press-1", token); rig.run("press-1")
    rig.cli("fleet", "devices", "--json")
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokers import free_port, needs_mosquitto
from processes import environment, wait_for

from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.fleet.init import Wanted, init
from edgeswarm.app.fleet.link import socket_path
from edgeswarm.drivers.pki.sealed import Cost

PASSPHRASE = "correct horse battery staple"
CHEAP = Cost(1, 8_192)
PATIENCE_S = 60.0


class CommandFailedError(AssertionError):
    """A command ended with an exit code that was not expected."""


@dataclass
class Rig:
    """home: everything is below it.  folder: the FLEET directory."""

    home: Path
    folder: FleetFolder
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {
            **environment(home=self.home),
            "EDGESWARM_FLEET": str(self.folder.path),
            "EDGESWARM_PASSPHRASE_FILE": str(self.home / "pass"),
        }

    # --- commands -----------------------------------------------------------------------------------------------------

    def cli(self, *arguments: str, expect: int | None = 0, stdin: str = "", env: dict[str, str] | None = None) -> str:
        """Standard output of `edgeswarm ...`.  expect: its exit code; None: any."""
        command = [sys.executable, "-m", "edgeswarm", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env={**self.env, **(env or {})}, cwd=self.home,
            timeout=120, check=False,
        )  # fmt: skip
        if expect is not None and done.returncode != expect:
            raise CommandFailedError(
                f"{' '.join(arguments)}: exit {done.returncode}, expected {expect}\n{done.stdout}\n{done.stderr}"
            )
        return done.stdout if expect == 0 else done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.cli(*arguments, "--json"))

    # --- processes ----------------------------------------------------------------------------------------------------

    def start(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A long-lived `edgeswarm ...`; its standard error goes to home/<name>.log."""
        with open(self.home / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "edgeswarm", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**self.env, **(env or {})}, cwd=self.home,
            )  # fmt: skip
        return self.processes[name]

    def serve(self, *arguments: str) -> None:
        """The controller, and the broker with it; returns when it answers."""
        self.serve_alone("--broker", *arguments)

    def serve_alone(self, *arguments: str) -> None:
        """The controller, with a broker that somebody else runs."""
        self.start("controller", "fleet", "serve", *arguments)
        wait_for(socket_path(self.folder).exists, "the controller listens", within_s=PATIENCE_S)
        try:
            self.cli("fleet", "status", "--wait", str(PATIENCE_S))
        except CommandFailedError as error:
            raise CommandFailedError(f"{error}\n{self.tail('controller')}") from None

    def run(self, device: str, **env: str) -> None:
        self.start(device, "run", "--state", str(self.state(device)), env=env)

    def kill(self, name: str) -> None:
        """As a power cut ends it."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    def end(self, name: str) -> int:
        """As a service manager ends it; its exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(30)

    def tail(self, name: str, lines: int = 30) -> str:
        try:
            return "\n".join((self.home / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)

    # --- devices ------------------------------------------------------------------------------------------------------

    def state(self, device: str) -> Path:
        return self.home / device

    def token(self, *arguments: str) -> Path:
        """A file with a fresh token."""
        path = self.home / f"token-{len(list(self.home.glob('token-*')))}"
        found = self.json("fleet", "token", "create", *arguments)
        path.write_text(found["token"])
        path.chmod(0o600)
        return path

    def join(self, device: str, token: Path, *arguments: str, expect: int = 0) -> str:
        state = str(self.state(device))
        return self.cli(
            "join", "--state", state, "--name", device, "--token-file", str(token), *arguments, expect=expect
        )


@contextmanager
def fleet_rig(home: Path, *, encrypt: bool = False) -> Iterator[Rig]:
    """A fleet called `plant` with the `lan` timing on 127.0.0.1; nothing runs yet."""
    needs_mosquitto()
    home.mkdir(parents=True, exist_ok=True)
    (home / "pass").write_text(PASSPHRASE + "\n")
    os.chmod(home / "pass", 0o600)
    wanted = Wanted(
        "plant",
        ("127.0.0.1", "localhost"),
        port=free_port(),
        join_port=free_port(),
        bind="127.0.0.1",
        timing="lan",
        encrypt=encrypt,
    )
    rig = Rig(home, init(home / "fleet", wanted, passphrase=PASSPHRASE, now_s=int(time.time()), cost=CHEAP))
    try:
        yield rig
    finally:
        rig.close()
