"""The host of all jails of a supervisor, under asyncio: one zygote, the code cache, and `spawn`.

Invariants: code is compiled and loaded inside jails only; every jail gets the tier that was found by trying; when the
zygote dies a new one is started, and living jails do not notice: they are this process's children then, or init's.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgeswarm.drivers.cgroup import Groups
from edgeswarm.drivers.handover import Unpacker
from edgeswarm.drivers.jail_cache import Binding, CwasmCache, binding_here
from edgeswarm.drivers.jail_compiler import Compiler
from edgeswarm.drivers.jail_handover import unpack_jail
from edgeswarm.drivers.jail_life import JailExit, JailLife, JailStartError, Link, end_process, private_bytes
from edgeswarm.drivers.jail_link import JailLink, KernelSpec, Reply
from edgeswarm.drivers.jail_order import Orders, allow_descriptors, order_for, why_killed
from edgeswarm.drivers.jail_orphans import Orphans
from edgeswarm.drivers.jail_policy import BUILD_POLICY, OWN_POLICIES, load_policies
from edgeswarm.drivers.jail_process import Jail
from edgeswarm.drivers.jail_zygote import Message, Program, ZygoteProcess, choose_tier
from edgeswarm.errors import ConfigError, JailError, JailGoneError, LimitError
from edgeswarm.ids import JailId
from edgeswarm.jail.policy import Policy, Tier
from edgeswarm.limits import COMPILE_MS_DEFAULT, JAIL_READY_MS_MAX, JAILS_MAX, ZYGOTE_STARTS_MAX

__all__ = ["Jail", "JailExit", "JailHost", "JailStartError", "KernelSpec", "Program", "Reply", "private_bytes"]

log = logging.getLogger(__name__)
T = TypeVar("T")
Layers = dict[str, tuple[bool, str]]


class JailHost:
    """One zygote, and everything it has forked.

    policy_dir: as `sandbox/` (policies/, bpf/).  mac_key: 16 to 64 bytes, of this device, for the code cache.
    tier: None takes the best one this machine offers; a weaker one may be asked for.  version: of this program.
    groups: the cgroups that its jails get, its own from now on; None: those that can be had without moving anybody.
    own_process: nothing else runs in this process, so it may become the parent of orphans.
    judge: called with every tier that is new, and what each layer's trial said, before a jail gets it; it may raise.
    first_id: where its jails' numbers begin; under root each is a user, so two hosts of one program begin apart.
    """

    def __init__(
        self,
        *,
        policy_dir: Path,
        cache_dir: Path,
        mac_key: bytes,
        tier: str | None = None,
        program: Program | None = None,
        version: str = "",
        groups: Groups | None = None,
        own_process: bool = False,
        judge: Callable[[Tier, Layers], None] = lambda _tier, _layers: None,
        first_id: int = 1,
    ) -> None:
        self._policies = load_policies(policy_dir, own=cache_dir.parent / OWN_POLICIES)
        self.groups = groups or Groups.open(str(cache_dir), may_move=False)
        self.cache = CwasmCache(cache_dir, mac_key, self.binding_here())
        self._wanted_tier, self._judge_tier = tier, judge
        self._program = program or Program()
        self._version = version
        self._zygote: ZygoteProcess | None = None
        self._elders: list[ZygoteProcess] = []  # take no orders any more, and end with their last jail
        self._parents: dict[int, ZygoteProcess] = {}  # of each jail, until it dies
        self._orphans = Orphans(lambda: {jail.pid for jail in self._jails.values()}, ours=own_process)
        self._hello: asyncio.Future[dict[str, Any]] | None = None
        self._jails: dict[int, JailLife] = {}
        self._next = first_id
        self._tasks: set[asyncio.Task[None]] = set()
        self.compiler = Compiler(self)
        self._orders = Orders()
        self._failed_starts = 0
        self._closed = False
        self.zygote_starts = 0
        self.tier: Tier = "D"
        self.layers: Layers = {}
        """What each layer's trial said."""

    # --- the zygote -------------------------------------------------------------------------------------------------

    @property
    def zygote_pid(self) -> int:
        return self._zygote.pid if self._zygote else 0

    @property
    def jails(self) -> tuple[Jail, ...]:
        """Those that serve."""
        return tuple(jail for jail in self._jails.values() if isinstance(jail, Jail))

    async def start(self) -> None:
        """Start the zygote and learn the tier.  Raises TierError where nothing can be jailed, JailError otherwise."""
        allow_descriptors()
        self._orphans.begin()
        self._start_zygote()
        try:
            await self._ready_zygote()
        except BaseException:
            await self.close()
            raise

    def _start_zygote(self) -> None:
        loop = asyncio.get_running_loop()
        self.zygote_starts += 1
        self._hello = loop.create_future()
        self._zygote = ZygoteProcess(self._program, tuple(self._policies.values()), version=self._version)
        self._zygote.socket.setblocking(False)
        self.cache.binding = self.binding_here()
        loop.add_reader(self._zygote.socket, self._on_zygote, self._zygote)

    def binding_here(self) -> Binding:
        """What code is good for that a zygote of this program compiles."""
        return binding_here(policy_digest=self._policies[BUILD_POLICY].digest())

    def adopt(
        self,
        state: Mapping[str, Any],
        unpacker: Unpacker,
        *,
        on_reply: Callable[[JailId, Reply], None],
        on_exit: Callable[[JailId, JailExit], None],
    ) -> list[Jail]:
        """In place of `start`: the zygote and the jails of an earlier program of this process (`jail_handover`).

        on_reply, on_exit: get the jail's id, as the host counts jails, first.  Nobody is listened to before `listen`.
        The code cache serves what that zygote can load, until a zygote of ours takes its place.
        Raises LocalError, OSError, KeyError, JailError, TierError.
        """
        allow_descriptors()
        self._orphans.begin()
        zygote, hello = state["zygote"], state["hello"]
        self._take_hello(hello)
        self._hello = asyncio.get_running_loop().create_future()
        self._hello.set_result(hello)
        self._zygote, *self._elders = (
            ZygoteProcess.of(one["pid"], unpacker.fd(one["socket"]), version=one["version"])
            for one in (zygote, *state["elders"])
        )
        self._next, self.zygote_starts = state["next"], state["starts"]
        self.cache.binding = Binding(**state["binding"])
        for one in state["jails"]:
            number = JailId(one["link"]["id"])
            jail = unpack_jail(
                one, unpacker, self, functools.partial(on_reply, number), functools.partial(on_exit, number)
            )
            self._jails[number] = jail
            if one["parent"] is not None:
                self._parents[number] = (self._zygote, *self._elders)[one["parent"]]
        return [jail for jail in self._jails.values() if isinstance(jail, Jail)]

    def renew(self) -> bool:
        """New jails come from a zygote of this program from now on; the one before ends with the last of its jails.

        False: it is this program's already, and its code is.
        """
        zygote = self._zygote
        if zygote is None or (zygote.version == self._version and self.cache.binding == self.binding_here()):
            return False
        self._elders.append(zygote)
        self._start_zygote()
        self._end_elders()
        return True

    def _end_elders(self) -> None:
        for elder in [one for one in self._elders if one not in self._parents.values()]:
            self._elders.remove(elder)
            asyncio.get_running_loop().remove_reader(elder.socket)
            self.keep(elder.ended())

    def listen(self, *, on: bool) -> None:
        """From now on read what the zygote and the jails say; off: from now on nobody does, and what they say waits."""
        loop = asyncio.get_running_loop()
        for zygote in (self._zygote, *self._elders):
            if zygote is not None and on:
                loop.add_reader(zygote.socket, self._on_zygote, zygote)
            elif zygote is not None:
                loop.remove_reader(zygote.socket)
        for jail in tuple(self._jails.values()):
            jail.listen(on=on)

    async def _ready_zygote(self) -> ZygoteProcess:
        """The zygote, once it takes orders."""
        while True:
            if self._hello is None or self._closed:
                raise JailError("the host of the jails is closed" if self._closed else "start() the host first")
            if self._zygote is None:  # the last one died, and no other could be started then
                self._start_zygote()
            hello = self._hello
            try:
                async with asyncio.timeout(JAIL_READY_MS_MAX / 1000):
                    told = await asyncio.shield(hello)
            except TimeoutError:
                raise JailError(f"the zygote was not ready within {JAIL_READY_MS_MAX} ms") from None
            if hello is not self._hello or self._zygote is None:
                continue  # it died meanwhile, and another one has been started
            self._take_hello(told)
            return self._zygote

    def _take_hello(self, told: Mapping[str, Any]) -> None:
        tier = choose_tier(told, self._wanted_tier)
        layers = {name: (bool(ok), str(detail)) for name, (ok, detail) in told["layers"].items()}
        if tier != self.tier:  # the machine may have become poorer since the last zygote
            self._judge_tier(tier, layers)
        self.tier, self.layers = tier, layers

    def _on_zygote(self, zygote: ZygoteProcess) -> None:
        try:
            message = zygote.receive()
        except BlockingIOError:
            return
        if message is None:
            self._zygote_gone(zygote)
        else:
            self._take(message)

    def _take(self, message: Message) -> None:
        body = message.body
        if "hello" in body and self._hello is not None and not self._hello.done():
            self._failed_starts = 0
            self._hello.set_result(body["hello"])
            return
        number = body.get("spawned", body.get("refused", body.get("exited", 0)))
        self._orders.answered(number)
        jail = self._jails.get(number)
        if jail is None:
            for pidfd in message.fds:
                end_process(pidfd)
        elif "spawned" in body:
            jail.take_process(body["pid"], message.fds[0])
        elif "exited" in body:
            jail.take_status(body.get("code"), body.get("signal"))
        else:
            jail.refused(body["text"])

    def _zygote_gone(self, zygote: ZygoteProcess) -> None:
        """Start another one; the jails live on."""
        asyncio.get_running_loop().remove_reader(zygote.socket)
        zygote.socket.close()
        code = zygote.process.wait()
        for number in [number for number, parent in self._parents.items() if parent is zygote]:
            del self._parents[number]
            if (jail := self._jails.get(number)) is not None and jail.pidfd < 0:
                jail.kill("its zygote ended")  # it may have been forked, which nobody will tell us
        if zygote in self._elders:
            self._elders.remove(zygote)
            log.warning("zygote_ended", extra={"pid": zygote.pid, "code": code})
            return
        log.warning("zygote_ended", extra={"pid": zygote.pid, "code": code, "jails": len(self._jails)})
        self._zygote = None
        hello = self._hello
        if self._closed or hello is None:
            return
        if not hello.done():
            self._failed_starts += 1
        if self._failed_starts >= ZYGOTE_STARTS_MAX:
            error = JailError(f"the zygote ended {self._failed_starts} times before being ready, last with {code}")
            if not hello.done():
                hello.set_exception(error)
                hello.exception()
            return
        try:
            self._start_zygote()
        except JailError as error:  # no memory, no descriptors: who wants a jail tries again
            log.warning("zygote_not_started", extra={"error": str(error)})
        if not hello.done():
            hello.set_result({})  # whoever waits for the old one looks again

    # --- jails ------------------------------------------------------------------------------------------------------

    async def spawn(
        self,
        specs: Sequence[KernelSpec],
        *,
        on_reply: Callable[[Reply], None],
        on_exit: Callable[[JailExit], None],
        policy: str = "strict",
        ring_bytes: int | None = None,
    ) -> Jail:
        """A ready jail with these agents.  `Jail.faults` names the slots whose agents could not be loaded.

        Raises JailStartError when it did not become ready, LocalError or LimitError when it cannot.
        """
        began_ns = time.monotonic_ns()

        async def start() -> Jail:
            link = JailLink(self.next_id(), specs, ring_bytes=ring_bytes)
            await self.order(link, policy)
            jail, parent = Jail(self, link, on_reply, on_exit), self._parents[link.id]
            self.know(jail)
            try:
                await jail.become_ready(began_ns=began_ns, within_ms=JAIL_READY_MS_MAX)
            except JailStartError:
                if jail.late and not jail.pid:  # in all that time its zygote has not answered: it never will
                    parent.process.kill()
                raise
            return jail

        return await self.outliving_the_zygote(start)

    async def outliving_the_zygote(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Start a jail; once more when the zygote died with the order."""
        seen = self.zygote_starts
        try:
            return await start()
        except JailStartError as error:
            if error.ended.pid or self.zygote_starts == seen:
                raise
        return await start()

    def next_id(self) -> JailId:
        """A number for one more jail.  Raises LimitError."""
        if len(self._jails) + self._orders.waiting >= JAILS_MAX:
            raise LimitError(f"jails: at most {JAILS_MAX} (JAILS_MAX) at a time")
        self._next += 1
        return JailId(self._next - 1)

    async def order(self, link: Link, policy: str) -> None:
        """Order a jail from the zygote, when its turn comes.  The link is closed when that fails."""
        try:
            if policy not in self._policies:
                raise ConfigError(f"sandbox policy: expected one of {', '.join(self._policies)}, found {policy!r}")
            async with self._orders:
                self._parents[link.id] = await self._order_in_turn(link, self._policies[policy])
                self._orders.sent(link.id)
        except BaseException:
            link.close()
            self.groups.remove(link.id)
            raise
        link.hand_over()

    async def _order_in_turn(self, link: Link, policy: Policy) -> ZygoteProcess:
        while True:
            while self._orders.full:
                await self._orders.hear()
            zygote = await self._ready_zygote()
            order = order_for(link, policy, self.tier, self.groups)
            try:
                while not zygote.send(order, link.fds):
                    await self._orders.hear()
                return zygote
            except JailGoneError:  # it died, and nobody has noticed yet
                if zygote is self._zygote:
                    self._zygote_gone(zygote)

    async def compile(self, wasm: bytes, *, deadline_s: float = COMPILE_MS_DEFAULT / 1000) -> bytes:
        """Machine code for a kernel: from the cache, or compiled in a jail of policy `build`.

        Raises KernelError when the module does not keep the ABI, LimitError past the deadline or the size, JailError
        when the jail ended otherwise.
        """
        return self.cache.get(wasm) or await self.compiler.compile(wasm, deadline_s)

    def why_killed(self, number: JailId) -> str:
        return why_killed(self.groups, number)

    def know(self, jail: JailLife) -> None:
        """It has been ordered: what the zygote says of its number is for it."""
        self._jails[jail.id] = jail

    def forget(self, jail: JailLife) -> None:
        """It has ended (called by the jail)."""
        self._jails.pop(jail.id, None)
        self._parents.pop(jail.id, None)
        self._orders.answered(jail.id)
        self.groups.remove(jail.id)
        self._orphans.sweep()
        if self._elders:
            self._end_elders()

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run this to its end (called by a jail)."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every jail, then the zygote."""
        if self._closed:
            return
        self._closed = True
        await asyncio.gather(*(jail.close() for jail in tuple(self._jails.values())))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        zygote, self._zygote = self._zygote, None
        for one in (zygote, *self._elders):
            if one is not None:
                asyncio.get_running_loop().remove_reader(one.socket)
                await one.ended()
        self._elders.clear()
        self._orphans.sweep()
        self._orphans.end()
        self.groups.close()
