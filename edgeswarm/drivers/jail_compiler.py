"""Compiles kernels for the asyncio host, in jails of policy `build`: each module once, however many ask for it.

Invariant: what is kept and handed out was compiled by a zygote of the binding that the cache has then; where another
zygote has taken over meanwhile, with another wasmtime, the module is compiled again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from edgeswarm.drivers.jail_compile import CompileLink, compile_error
from edgeswarm.drivers.jail_life import JailExit, JailLife, JailStartError
from edgeswarm.drivers.jail_policy import BUILD_POLICY

if TYPE_CHECKING:
    from edgeswarm.drivers.jails import JailHost


class Compiler:
    """pending: the modules that are being compiled now."""

    def __init__(self, host: JailHost) -> None:
        self._host = host
        self.pending: dict[bytes, asyncio.Future[bytes]] = {}

    async def compile(self, wasm: bytes, deadline_s: float) -> bytes:
        """As `JailHost.compile`, without a look into the cache."""
        within_ms = int(deadline_s * 1000)
        waiting = self.pending.get(wasm)
        if waiting is None:
            waiting = self.pending[wasm] = asyncio.ensure_future(self._compile(wasm, within_ms))
            waiting.add_done_callback(lambda done: self._forget(wasm, done))
        try:
            return await asyncio.shield(waiting)
        except JailStartError as error:
            raise compile_error(error, within_ms) from None

    def _forget(self, wasm: bytes, done: asyncio.Future[bytes]) -> None:
        self.pending.pop(wasm, None)
        if not done.cancelled():
            done.exception()  # whoever asked may have gone

    async def _compile(self, wasm: bytes, within_ms: int) -> bytes:
        while True:
            binding = self._host.cache.binding
            code = await self._host.outliving_the_zygote(lambda: self._compile_once(wasm, within_ms))
            if self._host.cache.binding == binding:
                self._host.cache.put(wasm, code)
                return code

    async def _compile_once(self, wasm: bytes, within_ms: int) -> bytes:
        began_ns = time.monotonic_ns()
        link = CompileLink(self._host.next_id(), wasm)
        await self._host.order(link, BUILD_POLICY)
        jail = JailLife(self._host, link, _no_exit)
        self._host.know(jail)
        try:
            await jail.become_ready(began_ns=began_ns, within_ms=within_ms)
            return link.code(jail.compiled_bytes)
        finally:
            await jail.close()


def _no_exit(_exit: JailExit) -> None:
    """Its end is awaited, not reported."""
