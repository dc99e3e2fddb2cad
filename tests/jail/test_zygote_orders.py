"""Orders to a zygote that is slow, full, stuck, or gone and cannot be replaced: no jail that lives is harmed by it."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import jail_kernels as k
import pytest

from edgeswarm.drivers import jail_zygote, jails
from edgeswarm.drivers.jail_cache import CwasmCache
from edgeswarm.drivers.jail_life import JailLife, JailStartError
from edgeswarm.drivers.jails import JailHost
from edgeswarm.errors import JailError, KernelError, LimitError
from edgeswarm.jail.frames import Kind
from edgeswarm.limits import ZYGOTE_ORDERS_MAX

pytestmark = pytest.mark.e2e


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to pass")


async def begun(host: JailHost, starts: int) -> None:
    """Wait until so many zygotes were started in all."""
    await until(lambda: host.zygote_starts >= starts)


async def test_more_orders_than_its_socket_takes_wait_for_room_and_harm_nobody(
    host: JailHost, spawn: Any, moody: bytes
) -> None:
    """A full socket is no dead zygote: to take it for one ended every jail that lived."""
    first = await spawn(k.moody_spec(moody))
    assert host._zygote is not None
    host._zygote.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    others = await asyncio.gather(*(spawn(k.moody_spec(moody)) for _ in range(40)))
    for served in (first, *others):
        assert (await served.ask(0, 1, k.row(k.ADD, 3))).kind == Kind.REPLY
    assert host.zygote_starts == 1
    assert not first.exits


async def test_a_zygote_is_sent_no_more_orders_than_it_can_answer_in_time(
    host: JailHost, spawn: Any, moody: bytes
) -> None:
    os.kill(host.zygote_pid, signal.SIGSTOP)
    try:
        starting = [asyncio.ensure_future(spawn(k.moody_spec(moody))) for _ in range(ZYGOTE_ORDERS_MAX + 8)]
        await until(lambda: len(host._jails) >= ZYGOTE_ORDERS_MAX)
        await asyncio.sleep(0.3)
        assert len(host._jails) == ZYGOTE_ORDERS_MAX
        starting[0].cancel()  # its order is with the zygote: the room that it leaves is another's
        starting[-1].cancel()  # its turn had not come
    finally:
        os.kill(host.zygote_pid, signal.SIGCONT)
    found = await asyncio.gather(*starting, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in found].count(True) == 2
    assert all(one.jail.alive for one in found[1:-1])
    assert host.zygote_starts == 1


async def test_jails_whose_turn_has_not_come_count_too(
    host: JailHost, spawn: Any, moody: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jails, "JAILS_MAX", 40)
    found = await asyncio.gather(*(spawn(k.moody_spec(moody)) for _ in range(44)), return_exceptions=True)
    assert [isinstance(one, LimitError) for one in found] == 40 * [False] + 4 * [True]
    assert len(host.jails) == 40
    await found[0].jail.close()
    await spawn(k.moody_spec(moody))


@pytest.mark.parametrize("lacking", ["descriptors", "processes"])
async def test_a_zygote_that_could_not_be_replaced_is_when_the_next_jail_is_wanted(
    host: JailHost, spawn: Any, moody: bytes, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """The machine is short of something at the moment when the zygote dies, and for a while after."""

    def short(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE if lacking == "descriptors" else errno.EAGAIN, "short of it")

    served = await spawn(k.moody_spec(moody))
    with monkeypatch.context() as patch:
        if lacking == "descriptors":
            patch.setattr(jail_zygote.socket, "socketpair", short)
        else:
            patch.setattr(subprocess, "Popen", short)
        os.kill(host.zygote_pid, signal.SIGKILL)
        await begun(host, 2)
        for _ in range(2):
            with pytest.raises((JailError, OSError), match="short of it"):
                await host.order(_Link(), "strict")
    assert served.jail.alive
    other = await spawn(k.moody_spec(moody))
    for one in (served, other):
        assert (await one.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY


class _Link:
    """As much of a link as an order that is never sent needs."""

    id = 7777

    def close(self) -> None:
        """Nothing is open."""


async def test_zygotes_that_died_too_often_are_tried_again_when_a_jail_is_wanted(
    host: JailHost, spawn: Any, moody: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under memory pressure that kills each one before it is ready."""
    whole = host._program
    monkeypatch.setattr(host, "_program", jails.Program(worker="nowhere"))
    os.kill(host.zygote_pid, signal.SIGKILL)
    with pytest.raises(JailError, match="before being ready"):
        while True:
            await spawn(k.moody_spec(moody))
    monkeypatch.setattr(host, "_program", whole)
    await until(lambda: host._zygote is None)
    served = await spawn(k.moody_spec(moody))
    assert (await served.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY


async def test_a_stuck_zygote_is_replaced_and_its_jails_live_on(
    host: JailHost, spawn: Any, moody: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await spawn(k.moody_spec(moody))
    with monkeypatch.context() as patch:
        patch.setattr(jails, "JAIL_READY_MS_MAX", 300)
        os.kill(host.zygote_pid, signal.SIGSTOP)
        with pytest.raises(JailStartError, match="not ready within 300 ms"):
            await spawn(k.moody_spec(moody))
    await begun(host, 2)
    other = await spawn(k.moody_spec(moody))
    for one in (served, other):
        assert (await one.ask(0, 1, k.row(k.ADD))).kind == Kind.REPLY


async def test_a_jail_that_is_slow_to_load_costs_no_zygote(
    host: JailHost, spawn: Any, moody: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jails, "JAIL_READY_MS_MAX", 60_000)
    monkeypatch.setattr(JailLife, "_on_control", lambda self: self._loop.remove_reader(self._life.control))
    starting = asyncio.ensure_future(spawn(k.moody_spec(moody)))
    await until(lambda: any(jail.pid for jail in host._jails.values()))
    monkeypatch.undo()
    (jail,) = host.jails
    jail.late = True
    jail._end()
    with pytest.raises(JailStartError):
        await starting
    assert host.zygote_starts == 1
    assert host._zygote is not None and host._zygote.process.poll() is None


async def test_a_jail_of_which_the_zygote_says_nothing_is_not_waited_for_without_end(
    host: JailHost, spawn: Any, moody: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ready, but its zygote never told which process it is."""
    monkeypatch.setattr(jails, "JAIL_READY_MS_MAX", 1500)
    monkeypatch.setattr(host, "_take", lambda message: jail_zygote.close_all(message.fds))
    with pytest.raises(JailStartError, match="not ready within 1500 ms"):
        async with asyncio.timeout(15):
            await spawn(k.moody_spec(moody))


# --- compiling while zygotes change ----------------------------------------------------------------------------------


async def test_code_of_a_zygote_that_was_replaced_by_a_newer_one_is_compiled_again(
    host: JailHost, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade of wasmtime came between: what the old one made is not kept under the new one's name."""
    old = host.binding_here()
    new = dataclasses.replace(old, wasmtime="99.0")
    host.cache = CwasmCache(tmp_path, k.MAC_KEY, old)
    compiled: list[bytes] = []

    async def once(wasm: bytes, _within_ms: int) -> bytes:
        compiled.append(b"code %d" % len(compiled))
        host.cache.binding = new
        return compiled[-1]

    monkeypatch.setattr(host.compiler, "_compile_once", once)
    assert await host.compile(b"\0asm") == b"code 1"
    assert host.cache.get(b"\0asm") == b"code 1"
    host.cache.binding = old
    assert host.cache.get(b"\0asm") is None


async def test_a_compilation_that_nobody_waits_for_any_more_fails_in_silence(
    host: JailHost, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.ensure_future(host.compile(b"\0asm\1\0\0\0garbage"))
    await asyncio.sleep(0)
    assert host.compiler.pending
    asked.cancel()
    await until(lambda: not host.compiler.pending)
    with pytest.raises(KernelError):
        await host.compile(b"\0asm\1\0\0\0garbage")
    assert "never retrieved" not in caplog.text
