"""Zygotes that have a delegate's runtime loaded: one for each runtime, made when the first jail wants one.

A runtime's zygote costs tens of megabytes; so it is ended a while after its last jail.
Invariant: the numbers of its jails, and with them their users under root, are no other host's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from edgeswarm.compile.abi import Layout, Weights
from edgeswarm.drivers.delegates.runtimes import Delegate, Runtime
from edgeswarm.drivers.jail_spec import DelegateJob, KernelSpec
from edgeswarm.drivers.jail_zygote import Program
from edgeswarm.drivers.jails import Jail, JailExit, JailHost, Reply
from edgeswarm.limits import DELEGATE_LINGER_S, MIB

POLICY: Final = "delegate"
GPU_POLICY: Final = "gpu"
_FIRST_ID: Final = 20_000
"""More than any device makes of other jails in a life, and of 65,536 users as many are left."""
_ID_STEP: Final = 10_000
_MEMORY_BYTES: Final = 64 * MIB
"""Beside what the policy gives any jail of it: of a model that wants more, the delegate is out of memory."""

MakeHost = Callable[[Program, int], JailHost]
"""A host that is not started, of this program, whose jails' numbers begin here."""


class Hosts:
    """make: how this supervisor makes a host."""

    def __init__(self, make: MakeHost) -> None:
        self._make = make
        self._hosts: dict[Runtime, JailHost] = {}
        self._users: dict[Runtime, int] = {}
        self._locks: dict[Runtime, asyncio.Lock] = {}
        self._first = itertools.count(_FIRST_ID, _ID_STEP)
        self._ending: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def spawn(
        self,
        delegate: Delegate,
        spec: KernelSpec,
        *,
        on_reply: Callable[[Reply], None],
        on_exit: Callable[[JailExit], None],
    ) -> Jail:
        """A ready jail with this model.  Raises as `JailHost.start` and `JailHost.spawn`.

        Who has it calls `done` once it has ended.
        """
        runtime = delegate.runtime
        lock = self._locks.setdefault(runtime, asyncio.Lock())
        self._users[runtime] = self._users.get(runtime, 0) + 1
        try:
            async with lock:
                host = self._hosts.get(runtime)
                if host is None:
                    host = self._make(Program(runtime.package.worker, (runtime.folder,)), next(self._first))
                    await host.start()
                    self._hosts[runtime] = host
            return await host.spawn([spec], policy=policy_of(delegate), on_reply=on_reply, on_exit=on_exit)
        except BaseException:
            await self.done(delegate)
            raise

    async def done(self, delegate: Delegate) -> None:
        """A jail of `spawn` has ended."""
        runtime = delegate.runtime
        self._users[runtime] -= 1
        if not self._users[runtime] and runtime in self._hosts:
            task = asyncio.create_task(self._end(runtime))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, runtime: Runtime) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DELEGATE_LINGER_S):
                await self._closing.wait()
        async with self._locks[runtime]:
            if not self._users[runtime] and (host := self._hosts.pop(runtime, None)) is not None:
                await host.close()

    async def close(self) -> None:
        """End everything, once its jails have ended."""
        self._closing.set()
        await asyncio.gather(*self._ending, return_exceptions=True)
        hosts, self._hosts = list(self._hosts.values()), {}
        for host in hosts:
            await host.close()


def policy_of(delegate: Delegate) -> str:
    """The sandbox policy of its jails."""
    return GPU_POLICY if delegate.name in ("gpu", "npu") else POLICY


def spec_for(
    delegate: Delegate,
    *,
    name: str,
    model: bytes,
    layout: Layout,
    deadline_ms: int,
    threads: int,
    cpu_cores: float = 1.0,
) -> KernelSpec:
    """What a jail needs to compute this model.  layout: of the agent's kernel; its widths are the model's."""
    bare = replace(layout, batch_max=1, weights=Weights(layout.weights.offset, 0, (0,)))
    return KernelSpec(
        slot=0,
        name=name,
        cwasm=model,
        layout=bare,
        weights=b"",
        memory_limit_bytes=max(_MEMORY_BYTES, layout.memory_bytes),
        deadline_ms=deadline_ms,
        cpu_cores=cpu_cores,
        delegate=DelegateJob(
            kind=delegate.name if delegate.name in ("gpu", "npu") else "cpu",
            threads=threads,
            library=delegate.library,
            options=delegate.options,
            driver=delegate.driver,
        ),
    )
