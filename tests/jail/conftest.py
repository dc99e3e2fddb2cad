"""One code cache for all tests of jails, and hosts that are checked on the way out: nothing may be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import jail_kernels as k
import pytest
import pytest_asyncio

from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.drivers.jails import Jail, JailExit, JailHost, KernelSpec, Reply


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cwasm")


class Served:
    """A jail with everything it said."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.exits: list[JailExit] = []
        self.news = asyncio.Event()
        self.jail: Jail

    def on_reply(self, reply: Reply) -> None:
        self.replies.append(reply)
        self.news.set()

    def on_exit(self, ended: JailExit) -> None:
        self.exits.append(ended)
        self.news.set()

    async def until(self, condition: Callable[[], bool], within_s: float = 10) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def ask(self, slot: int, seq: int, payload: bytes, rows: int = 1) -> Reply:
        assert self.jail.submit(slot, seq, rows, payload)
        await self.until(lambda: bool(self.replies) and (self.replies[-1].slot, self.replies[-1].seq) == (slot, seq))
        return self.replies[-1]

    async def exit(self) -> JailExit:
        await self.until(lambda: bool(self.exits))
        return self.exits[0]


Spawn = Callable[..., Any]


@pytest_asyncio.fixture
async def host(cache_dir: Path) -> AsyncIterator[JailHost]:
    host = JailHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY)
    await host.start()
    yield host
    await host.close()
    assert host.jails == ()


@pytest.fixture
def spawn(host: JailHost) -> Spawn:
    async def spawn(*specs: KernelSpec, on: JailHost | None = None, **more: Any) -> Served:
        served = Served()
        served.jail = await (on or host).spawn(specs, on_reply=served.on_reply, on_exit=served.on_exit, **more)
        return served

    return spawn


@pytest_asyncio.fixture
async def moody(host: JailHost) -> bytes:
    return await host.compile(k.assemble(k.MOODY))


@pytest.fixture
def sync_host(cache_dir: Path) -> Iterator[SyncHost]:
    with SyncHost(policy_dir=k.SANDBOX, cache_dir=cache_dir, mac_key=k.MAC_KEY) as host:
        yield host
