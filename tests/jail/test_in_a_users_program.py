"""Jails as a library's: whatever the program around them does with its signals and its children, they serve and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jail_kernels as k
import pytest
from processes import wait_for

pytestmark = pytest.mark.e2e

BEGIN = """
import json, os, signal, sys, time
import jail_kernels as k
from edgeswarm.drivers.jail_sync import SyncHost
from pathlib import Path
def host():
    return SyncHost(policy_dir=k.SANDBOX, cache_dir=Path(sys.argv[1]), mac_key=k.MAC_KEY)
def spawn(host):
    return host.spawn([k.moody_spec(host.compile(k.assemble(k.MOODY)))])
def answer(jail):
    return k.values(jail.call(0, k.row(k.ADD, 21)))[0]
def say(*what):
    print(json.dumps(what), flush=True)
"""
SIGNALS = {
    "the end of children ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "every signal blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
}


def program(script: str, cache: Path, **environ: str) -> subprocess.Popen[bytes]:
    path = f"{k.ROOT}:{k.ROOT / 'tests' / 'support'}"
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + script, str(cache)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path, **environ},
    )  # fmt: skip


def has_ended(pid: int) -> bool:
    """Gone, or a zombie that waits for who has adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] == b"Z"
    except OSError:
        return True


@pytest.mark.parametrize("signals", list(SIGNALS))
def test_a_jail_serves_and_ends_whatever_its_program_does_with_signals(signals: str, cache_dir: Path) -> None:
    script = SIGNALS[signals] + "\nwith host() as one, spawn(one) as jail:\n say(answer(jail), jail.kill().signal)"
    with program(script, cache_dir) as process:
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, json.loads(out)) == (0, [42.0, signal.SIGKILL])


def test_close_ends_the_zygote_while_a_child_of_the_program_holds_its_socket(cache_dir: Path) -> None:
    """multiprocessing's fork gives a child every descriptor: a zygote must not wait for that child's end too."""
    script = """
with host() as one, spawn(one) as jail:
    answer(jail)
    child = os.fork()
    if child == 0:
        signal.pause()
say(one._zygote.process.returncode)
os.kill(child, signal.SIGKILL)
"""
    with program(script, cache_dir) as process:
        out, _ = process.communicate(timeout=120)
    assert json.loads(out) == [0], "it ended by itself"


def test_jails_of_a_killed_program_end_while_a_child_of_it_lives(cache_dir: Path) -> None:
    script = """
with host() as one, spawn(one) as jail:
    answer(jail)
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    say(one._zygote.pid, jail.pid, child)
    signal.pause()
"""
    with program(script, cache_dir) as process:
        assert process.stdout is not None
        zygote, jail, child = json.loads(process.stdout.readline())
        process.kill()
        process.wait()
        wait_for(lambda: has_ended(zygote) and has_ended(jail), "the zygote and the jail end")
        assert not has_ended(child)


OPENED = {
    "a jail": "{kernel}with host() as one, spawn(one) as opened:\n compute = lambda: answer(opened)\n{body}",
    "Network": "{net}with net as opened:\n compute = lambda: opened.forward(ROW).shape[0]\n{body}",
    "Population": "{net}with edgeswarm.Population(net, 4) as opened:\n"
    " compute = lambda: opened.tick([ROW] * 4).shape[0]\n{body}",
    "Runtime": "{net}with edgeswarm.Runtime() as opened:\n agent = opened.spawn(3, (4,), 2)\n"
    " compute = lambda: len(agent.process_input(ROW).values)\n{body}",
}
FORKED = """
 before = compute()
 child = os.fork()
 if child == 0:
  try:
   compute()
  except edgeswarm.errors.EdgeSwarmError as error:
   assert "fork" in str(error), error
   sys.exit(7)
  sys.exit(8)
 status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
 say(status, compute() == before)
"""


@pytest.mark.parametrize("kind", list(OPENED))
def test_a_forked_child_that_computes_or_ends_leaves_the_jails_to_its_parent(
    kind: str, cache_dir: Path, tmp_path: Path
) -> None:
    """Its `with` blocks end too: that closed the parent's jail, hung, or removed the parent's state directory."""
    net = "import edgeswarm.errors\nROW = [1.0, 2.0, 3.0]\nnet = edgeswarm.Network.random((3, 4, 2))\n"
    script = OPENED[kind].format(net="import edgeswarm\n" + net, kernel="import edgeswarm.errors\n", body=FORKED)
    with program(script, cache_dir, HOME=str(tmp_path), EDGESWARM_JAILS__MIN_TIER="C") as process:
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, json.loads(out)) == (0, [7, True])
