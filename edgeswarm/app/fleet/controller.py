"""The controller of a fleet: a device of the cell that also issues, advances waves, keeps the index, answers operators.

Joins its parts; each decides for itself.  It may be down: no device minds.
`one`, `many`: what an operator may ask, by name; `needs`: the capability that asking it takes, and that it changes
something, so that it is audited.  `who` is the operator's console, or "local" for the control socket of this machine.
Only administrators of the roster are answered; a question comes to the fleet's controller/inbox (method "fleet"), so
nobody needs to know which device the controller is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.errors import EdgeSwarmError, RemoteError
from edgeswarm.limits import FLEET_FOLLOW_S, FLEET_FOLLOWERS_MAX, FLEET_ROWS_MAX
from edgeswarm.wire import codec
from edgeswarm.wire import messages as msg

if TYPE_CHECKING:
    from edgeswarm.app.log import Log
    from edgeswarm.app.swarm.node import SwarmNode

LOCAL = "local"
METHOD, FOLLOW, KEEP, ROWS = "fleet", "fleet.follow", "fleet.keep", "fleet.rows"
One = Callable[[dict[str, Any], str], Awaitable[Any]]
"""(arguments, who) -> the answer, plain values only."""
Many = Callable[[dict[str, Any], str], AsyncIterator[Any]]


class Controller:
    """node: started.  The parts are set by whoever starts it (serve.py), in the order of their needs."""

    def __init__(self, folder: FleetFolder, node: SwarmNode, log: Log) -> None:
        self.folder, self.node, self.log = folder, node, log
        self.one: dict[str, One] = {}
        self.many: dict[str, Many] = {}
        self.needs: dict[str, str] = {}
        self.audit: Any = None
        self.broker: Any = None
        self.issuer: Any = None
        self.index: Any = None
        self.waves: Any = None
        self.revoker: Any = None
        self._followed: dict[tuple[str, bytes], tuple[asyncio.Task[None], asyncio.Event]] = {}

    def listen(self) -> None:
        """Answer operators that ask over MQTT."""
        peer = self.node.peer
        peer.methods |= {METHOD: self._asked, FOLLOW: self._follow, KEEP: self._keep}
        peer.listen(self.node.topics.controller)

    async def close(self) -> None:
        tasks = [task for task, _ in self._followed.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- asking -------------------------------------------------------------------------------------------------------

    async def ask(self, what: str, args: dict[str, Any], who: str) -> Any:
        """One answer.  Raises EdgeSwarmError; what changes something stands in the audit, however it ends."""
        method = self.one.get(what)
        if method is None:
            raise RemoteError(f"fleet: expected one of {', '.join(sorted(self.one))}, found {what!r:.80}", who=who)
        capability = self.needs.get(what, "")
        try:
            self._check(who, what, capability)
            answer = await method(args, who)
        except EdgeSwarmError as error:
            refused = isinstance(error, CallError) and error.code == "not-allowed"
            self._note(what, args, who, capability, "refused" if refused else "failed", str(error))
            raise
        self._note(what, args, who, capability, "ok", "")
        return answer

    def follow(self, what: str, args: dict[str, Any], who: str) -> AsyncIterator[Any]:
        """Answers until nobody listens.  Raises EdgeSwarmError."""
        method = self.many.get(what)
        if method is None:
            raise RemoteError(f"fleet: expected one of {', '.join(sorted(self.many))}, found {what!r:.80}", who=who)
        self._check(who, what, self.needs.get(what, ""))
        return method(args, who)

    def _check(self, who: str, what: str, capability: str) -> None:
        """The socket of this machine is its owner's; over MQTT only administrators are heard."""
        if who == LOCAL:
            return
        roster = self.node.rosters.current
        role = roster.role(who)
        if role != "administrator":
            raise CallError(f"{what}: a {role or 'stranger'} may not ask the controller", who=who, code="not-allowed")
        if capability and not roster.may(who, capability):
            raise CallError(f"{what}: it needs the capability {capability}", who=who, code="not-allowed")

    def _note(self, what: str, args: dict[str, Any], who: str, capability: str, outcome: Any, reason: str) -> None:
        if self.audit is None or (not capability and outcome != "refused"):
            return
        role = "" if who == LOCAL else self.node.rosters.current.role(who) or ""
        named = ("device", "token", "rollout", "agent", "selector", "id")
        target = " ".join(f"{key}={args[key]}" for key in named if isinstance(args.get(key), str))[:200]
        if outcome == "refused":  # which anybody can make happen as often as they like
            self.node.audited.refused(f"fleet.{what}", reason, who=who, capability=capability, target=target)
            return
        self.audit.record(
            f"fleet.{what}", who=who, role=role, capability=capability, target=target, outcome=outcome, reason=reason
        )

    # --- the control socket -------------------------------------------------------------------------------------------

    async def local(self, args: dict[str, Any]) -> Any:
        """The op "fleet": {what, args}."""
        what, inner = _question(args)
        return await self.ask(what, inner, LOCAL)

    async def local_follow(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        """The op "fleet_follow": {what, args}."""
        what, inner = _question(args)
        async for row in self.follow(what, inner, LOCAL):
            yield row

    # --- MQTT ---------------------------------------------------------------------------------------------------------

    async def _asked(self, sender: str, body: bytes) -> bytes:
        match codec.loads(body, who=sender):
            case [str(what), dict(args)]:
                return codec.dumps(await self.ask(what, _texts(args), _remote(sender)))
            case _:
                raise CallError("fleet: expected [what, arguments]", who=sender, code="error")

    async def _follow(self, sender: str, body: bytes) -> bytes:
        """Rows go to the sender's inbox until it has been silent for FLEET_FOLLOW_S."""
        match codec.loads(body, who=sender):
            case [str(what), dict(args), bytes(id_)] if len(id_) == 16:
                rows = self.follow(what, _texts(args), _remote(sender))
            case _:
                raise CallError("fleet.follow: expected [what, arguments, id]", who=sender, code="error")
        if len(self._followed) >= FLEET_FOLLOWERS_MAX or (sender, id_) in self._followed:
            raise CallError(f"fleet.follow: at most {FLEET_FOLLOWERS_MAX} at a time", who=sender, code="busy")
        heard = asyncio.Event()
        task = asyncio.create_task(self._pass_on(sender, id_, rows, heard))
        self._followed[sender, id_] = (task, heard)
        task.add_done_callback(lambda _: self._followed.pop((sender, id_), None))
        return b""

    async def _keep(self, sender: str, body: bytes) -> bytes:
        found = self._followed.get((sender, body))
        if found is None:
            raise CallError("fleet.follow: that is over", who=sender, code="not-found")
        found[1].set()
        return b""

    async def _pass_on(self, sender: str, id_: bytes, rows: AsyncIterator[Any], heard: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + FLEET_FOLLOW_S
        coming: asyncio.Future[Any] | None = None
        why = ""
        try:
            while loop.time() < end:
                coming = coming or asyncio.ensure_future(anext(rows))
                await asyncio.wait({coming}, timeout=min(1.0, end - loop.time()))
                if heard.is_set():
                    heard.clear()
                    end = loop.time() + FLEET_FOLLOW_S
                if coming.done():
                    done, coming = coming, None
                    self._tell(sender, id_, [done.result()], ended=False)
        except StopAsyncIteration:
            pass
        except EdgeSwarmError as error:
            why = str(error)
        except Exception as error:
            self.log.crash("fleet_fault", error)
            why = "internal fault"
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            with suppress(RuntimeError):
                await rows.aclose()  # type: ignore[attr-defined]
        self._tell(sender, id_, [], ended=True, why=why)

    def _tell(self, sender: str, id_: bytes, rows: list[Any], *, ended: bool, why: str = "") -> None:
        body = codec.dumps([id_, rows[:FLEET_ROWS_MAX], ended, why])
        self.node.peer.tell(sender, msg.AppMessage(name=ROWS, body=body))


def _question(args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    what, inner = args.get("what"), args.get("args", {})
    if not isinstance(what, str) or not isinstance(inner, dict):
        raise RemoteError("control request: fleet: expected what (text) and args (map)")
    return what, _texts(inner)


def _remote(sender: str) -> str:
    """Whoever asks over MQTT is not the socket of this machine, whatever it is called."""
    if sender == LOCAL:
        raise CallError(f"fleet: a device called {LOCAL} may not ask the controller", who=sender, code="not-allowed")
    return sender


def _texts(args: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in args):
        raise RemoteError("fleet: arguments: expected text keys")
    return args
