"""The guard goes back, or starts cold, whatever happens before the new version stands; and it can only do so once."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.app import handover_guard as g


class Execed(BaseException):
    """In place of an exec."""

    def __init__(self, path: str, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        super().__init__(path)
        self.argv, self.environ = list(argv), dict(environ)
        self.inherited = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and _inherits(fd)]


def _inherits(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


CALLS: list[Execed] = []


@pytest.fixture(autouse=True)
def no_exec(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def execve(path: str, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
        CALLS.append(Execed(path, argv, environ))
        raise CALLS[0]

    CALLS.clear()

    monkeypatch.setattr(g.os, "execve", execve)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    g.current = None


HEADER = g.Header(1, ["/old/python", "-m", "edgeswarm", "run"], {"A": "old"}, [1], "0.9", [], [], 30.0, 30.0)


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture
def handed(pipe: list[int]) -> Iterator[dict[str, str]]:
    """The environment of a process that the two ends of a pipe were handed to."""
    tree = {name: getattr(HEADER, name) for name in g.Header.__slots__} | {"fds": pipe}
    fd = g.write(tree, b"the state")
    yield {g.ENV: str(fd), "HOME": "/x"}
    try:
        os.close(fd)
    except OSError:
        pass


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def failing(environ: dict[str, str], start: Any) -> Execed:
    with pytest.raises(Execed):
        guard = g.arm(environ)
        assert guard is not None

        def again(*_: object) -> g.Guard:
            return guard

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(g, "arm", again)
            g.run(start)
    return CALLS[0]


def raising(error: BaseException) -> Any:
    def start() -> int:
        raise error

    return start


def hanging() -> int:
    time.sleep(30)
    return 0


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (raising(ImportError("no module")), "ImportError: no module"),
        (raising(SystemExit(3)), "SystemExit: 3"),
        (raising(KeyboardInterrupt()), "KeyboardInterrupt: "),
        (lambda: 2, "it ended with exit code 2 before it stood"),
        (lambda: 0, "it ended with exit code 0 before it stood"),
    ],
)
def test_whatever_ends_the_new_version_before_it_stands_brings_the_old_one_back(
    handed: dict[str, str], pipe: list[int], start: Any, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fd = int(handed[g.ENV])
    found = failing(handed, start)
    assert found.argv == HEADER.argv
    assert found.environ == {"A": "old", g.ENV: str(fd), g.ENV_BACK: why}
    assert {fd, *pipe} <= set(found.inherited)
    assert events(capsys)[-1]["event"] == "upgrade_rolled_back"
    assert g.read_body(fd, g.read_header(fd)) == b"the state"  # untouched


def test_one_that_hangs_is_sent_back_in_time(handed: dict[str, str]) -> None:
    fd = int(handed[g.ENV])
    short = replace(g.read_header(fd), start_s=0.05)
    other = g.write({name: getattr(short, name) for name in g.Header.__slots__}, b"the state")
    found = failing({g.ENV: str(other)}, hanging)
    assert found.environ[g.ENV_BACK] == "it did not stand within 0.05 s"
    os.close(other)


def test_old_version_that_fails_too_is_started_cold_and_nothing_is_inherited(
    handed: dict[str, str], pipe: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    for fd in pipe:
        os.set_inheritable(fd, True)
    found = failing({**handed, g.ENV_BACK: "the new one was bad"}, raising(ValueError("so am I")))
    assert found.argv == HEADER.argv
    assert found.environ == {"A": "old", g.ENV_ORPHANS: ""}
    assert not {int(handed[g.ENV]), *pipe} & set(found.inherited)
    [told] = events(capsys)
    assert told["event"] == "handover_given_up" and "cold start" in told["text"]


def test_one_that_the_old_version_does_not_read_is_no_way_back(handed: dict[str, str]) -> None:
    other = replace(g.read_header(int(handed[g.ENV])), reads=[7])
    fd = g.write({name: getattr(other, name) for name in g.Header.__slots__}, b"")
    assert g.ENV not in failing({g.ENV: str(fd)}, lambda: 0).environ
    os.close(fd)


def test_committed_closes_what_was_handed_over_and_there_is_no_way_back(
    handed: dict[str, str], pipe: list[int]
) -> None:
    def start() -> int:
        assert guard is not None
        assert guard.body() == b"the state"
        guard.commit()
        raise ValueError("later")

    guard = g.arm(handed)
    assert guard is not None and handed == {"HOME": "/x"}  # nobody else sees the variables
    with pytest.raises(ValueError, match="later"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(g, "arm", lambda: guard)
        g.run(start)
    for fd in (guard.fd, *pipe):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("damage", ["body", "header", "format", "nothing", "truncated"])
def test_what_cannot_be_read_is_refused(handed: dict[str, str], damage: str) -> None:
    fd = int(handed[g.ENV])
    size = os.fstat(fd).st_size
    if damage == "body":
        os.pwrite(fd, b"?", size - 1)
    elif damage == "header":
        os.pwrite(fd, b"?", 12)
    elif damage == "truncated":
        os.ftruncate(fd, 20)
    elif damage == "format":
        tree = {name: getattr(HEADER, name) for name in g.Header.__slots__} | {"format": 2}
        fd = g.write(tree, b"")
    else:
        os.ftruncate(fd, 0)
    guard = g.arm({g.ENV: str(fd)})
    assert guard is not None
    with pytest.raises(g.HandoverError):
        guard.body()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_handover_or_refused(data: bytes) -> None:
    fd = os.memfd_create("x")
    try:
        os.write(fd, g._MAGIC + data)
        with pytest.raises(g.HandoverError):
            g.read_header(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("text", ["", "x", "-1", "99999"])
def test_variable_that_is_no_descriptor_is_an_ordinary_start(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert g.arm({g.ENV: text}) is None
    assert bool(events(capsys)) == bool(text)


def test_without_a_handover_nothing_is_guarded() -> None:
    assert g.run(lambda: 5) == 5
    with pytest.raises(ValueError):
        g.run(raising(ValueError()))


def test_orphans_are_seen_to_their_end() -> None:
    quick = os.posix_spawn("/bin/true", ["true"], {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(g, "_ORPHANS_S", 0.05)
        slow = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        g.arm({g.ENV_ORPHANS: f"{quick},{slow},999999,junk"})
    for pid in (quick, slow):
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def test_handover_past_its_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(g, "_BODY_BYTES_MAX", 3)
    with pytest.raises(g.HandoverError, match="at most"):
        g.write({}, b"four")


def test_command_of_this_process_starts_the_same_program_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "utf8", "-m", "edgeswarm", "run", "--state", "x"])
    monkeypatch.setattr(sys, "argv", ["/x/edgeswarm/__main__.py", "run", "--state", "x"])
    assert g.own_program() == [sys.executable, "-X", "utf8", "-m", "edgeswarm"]
    assert g.own_command() == [*g.own_program(), "run", "--state", "x"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/af-runtime", "x.af"])  # it takes no `run`
    assert g.own_program() == [sys.executable, "-m", "edgeswarm"]
