"""Tries something in a forked child, bounded in time; whatever happens in there, it becomes one Outcome.

Invariants: the parent is single-threaded (the probe program is); a child's crash, hang or exit is an outcome, never an
error here; a child writes nothing to our standard streams.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from edgeswarm.jail import kernel

_DETAIL_CHARS_MAX: Final = 1_000  # a line for people; and less than a pipe holds, so that a child never waits for us


@dataclass(frozen=True, slots=True)
class Outcome:
    """ok, what was seen, and the errno of the refusal (0: none, or a refusal without one)."""

    ok: bool
    detail: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """attempt: does it, returns what was seen, raises to say no.  run_as: (uid, gid) to become first."""

    attempt: Callable[[], str]
    run_as: tuple[int, int] | None = None


def try_all(trials: Mapping[str, Trial], *, seconds_max: float) -> dict[str, Outcome]:
    """Try all of them side by side, each in a child of its own; name -> outcome, in the order of `trials`."""
    ends_at = time.monotonic() + seconds_max
    running = {name: _start(trial, seconds_max) for name, trial in trials.items()}
    return {name: _finish(pid, report, ends_at) for name, (pid, report) in running.items()}


def _start(trial: Trial, seconds_max: float) -> tuple[int, int]:
    report, told = os.pipe()
    pid = os.fork()
    if pid:
        os.close(told)
        return pid, report
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds_max)
        os.setsid()  # so that what the trial starts can be ended with it
        kernel.null_stdio()
        if trial.run_as is not None:
            kernel.become_user(*trial.run_as)
        answer: list[object] = [True, trial.attempt(), 0]
    except BaseException as error:  # no, for whatever reason: that is what is being asked
        answer = [False, _text(error), getattr(error, "errno", 0) or 0]
    try:
        os.write(told, json.dumps([answer[0], str(answer[1])[:_DETAIL_CHARS_MAX], answer[2]]).encode("utf-8"))
    finally:
        os._exit(0)


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _finish(pid: int, report: int, ends_at: float) -> Outcome:
    text = b""
    while True:
        left = max(0.0, ends_at - time.monotonic())
        ready, _, _ = select.select([report], [], [], left)
        piece = os.read(report, 65_536) if ready else b""
        text += piece
        if not piece:
            break
    os.close(report)
    code = _end(pid, ends_at)
    if text:
        ok, detail, number = json.loads(text)
        return Outcome(bool(ok), str(detail), int(number))
    if code in (-signal.SIGALRM, -signal.SIGKILL):
        return Outcome(False, "took too long")
    return Outcome(False, f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}")


def _end(pid: int, ends_at: float) -> int:
    """Wait for the child, then end whatever it started; its exit code, negative for a signal."""
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) and time.monotonic() < ends_at:
        time.sleep(0.001)
    try:
        os.killpg(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # it had not come to setsid
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
