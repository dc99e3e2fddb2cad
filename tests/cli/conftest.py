"""The command line in this process: arguments in, exit code and both outputs back; a state folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeswarm.app.cli import root


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        import json

        assert self.code == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """State directory of every command of the test; short, because a control socket's path is."""
    folder = Path(tempfile.mkdtemp(prefix="es", dir="/tmp"))
    monkeypatch.setenv("EDGESWARM_STATE", str(folder))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], state: Path) -> Cli:
    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = root.run([str(one) for one in arguments])
        found = capsys.readouterr()
        return Done(code, found.out, found.err)

    return run
