"""Every promise of sandbox/README.md, with a probe that tries to break it, in real jails of policy `strict`."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import jail_kernels as k
import pytest
import pytest_asyncio

from edgeswarm.drivers.jails import JailHost, JailStartError, Program

pytestmark = pytest.mark.e2e

HERE = Path(__file__).resolve().parent
PROBE = Program(worker="probe_worker", path=(str(HERE),))
NAMES = re.findall(r'^simple\("(\w+)"|^@probe\ndef (\w+)', (HERE / "probe_worker.py").read_text(), re.MULTILINE)
HELPERS = {"bad_control_message", "second_control_message"}
PROBES = sorted({a or b for a, b in NAMES} - HELPERS)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["A", "B", "C"])
async def probed(request: pytest.FixtureRequest, cache_dir: Path) -> AsyncIterator[tuple[JailHost, bytes]]:
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY, tier=request.param, program=PROBE)
    await host.start()
    yield host, await host.compile(k.assemble(k.MOODY))
    await host.close()


async def try_probe(host: JailHost, code: bytes, name: str) -> str:
    """What became of a probe: its own words, or how the jail ended."""
    spec = k.replace(k.moody_spec(code, deadline_ms=1000), name=name)
    try:
        jail = await host.spawn([spec], on_reply=lambda _: None, on_exit=lambda _: None)
    except JailStartError as error:
        return "killed: SIGSYS" if error.ended.sigsys else f"ended: {error}"
    await jail.close()
    return jail.faults[0]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", PROBES)
async def test_a_jail_cannot(probed: tuple[JailHost, bytes], name: str) -> None:
    found = await try_probe(*probed, name)
    if name == "write_to_code":  # a fault of the processor; wasmtime's handler wants the default one back, which kills
        assert found in ("killed: SIGSYS", "ended: jail ended by signal 11") or "signal 11" in found
    else:
        assert found.startswith(("closed: ", "killed: SIGSYS")), found


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_left_of_the_system_calls_is_refused_not_missing(probed: tuple[JailHost, bytes]) -> None:
    """Of the ten calls that serve: no new code by mmap and mprotect (an error), everything else ends the jail."""
    for name in ("map_executable", "make_data_executable", "map_writable_and_executable"):
        assert await try_probe(*probed, name) == "closed: EACCES Permission denied"
    for name in ("open_passwd", "socket_inet", "execute", "fork", "unshare_user", "memfd"):
        if name != "fork" or os.uname().machine == "x86_64":
            assert await try_probe(*probed, name) == "killed: SIGSYS"


def test_there_are_enough_probes() -> None:
    assert len(PROBES) >= 60
