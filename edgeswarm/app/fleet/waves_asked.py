"""What operators may ask of rollouts: start, show, follow and steer them, and bring the agent file before.

What changes something is signed by an operator: checked here before it is proposed, and again by each device.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgeswarm.app.fleet.uploads import Uploads
from edgeswarm.app.fleet.waves import Clock, Waves, short
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.rollout import waves as core
from edgeswarm.drivers import keys
from edgeswarm.errors import LocalError, RemoteError
from edgeswarm.wire import rollout as wire

if TYPE_CHECKING:
    from edgeswarm.app.fleet.controller import Controller


class WavesAsked:
    """Answers are plain values."""

    def __init__(self, controller: Controller, waves: Waves) -> None:
        self._node, self._log, self._waves = controller.node, controller.log, waves
        self.uploads = Uploads(controller.folder.controller / "uploads")

    async def started(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """`rollout.start` {plan}: what it names was uploaded before (`artefact.put`)."""
        node, data = self._node, _bytes(args, "plan")
        plan = wire.open_plan(data, roster=node.rosters.current, root_public=node.rosters.root_public)
        matched = self._waves.match(plan.selector, seed=plan.rollout)
        if await node.artefacts.exchange.store.get(plan.digest) is None:
            raise RemoteError(f"artefact {plan.artefact[:12]} is not here; upload it first (artefact.put)", who=who)
        if plan.publisher:  # who joins later is told of it too
            keys.trust(node.supervisor.settings.state_dir / "trust.d", bytes.fromhex(plan.publisher), "of a rollout")
        await node.artefacts.exchange.store.pin(plan.digest)
        kept = await node.artefacts.spread(plan.digest)
        await self._waves.propose(cmd.StartRollout(plan.rollout, plan.agent, plan.digest, data, node.config.device))
        self._log.info("rollout_started", rollout=plan.rollout, agent=plan.agent, by=who, matched=len(matched))
        self._waves.wake.set()
        return {"rollout": plan.rollout, "matched": len(matched), "kept": kept}

    async def matched(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """`rollout.match` {selector, rollout?}: how many devices a plan would reach."""
        found = self._waves.match(_text(args, "selector"), seed=str(args.get("rollout", "")))
        return {"matched": len(found), "devices": found[:100]}

    async def put(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """`artefact.put` {sha256, size, offset, data}: one piece; answers where the next one begins."""
        digest, size = _bytes(args, "sha256"), _number(args, "size")
        store = self._node.artefacts.exchange.store
        if await store.get(digest) is not None:
            return {"offset": size, "done": True}
        path = await asyncio.to_thread(
            self.uploads.piece, digest, size, _number(args, "offset"), _bytes(args, "data"), who
        )
        if isinstance(path, int):
            return {"offset": path, "done": False}
        try:
            await store.add_file(path)
        finally:
            self.uploads.drop(digest)
        return {"offset": size, "done": True}

    async def steered(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """`rollout.steer` {order}: pause, resume, abort, roll back."""
        node, data = self._node, _bytes(args, "order")
        order = wire.open_order(data, roster=node.rosters.current, root_public=node.rosters.root_public)
        await self._waves.propose(
            cmd.SteerRollout(order.rollout, order.state, data, short(order.why), node.config.device)
        )
        self._log.info("rollout_steered", rollout=order.rollout, state=order.state, by=who, why=order.why)
        self._waves.wake.set()
        return self.show(order.rollout)

    async def listed(self, args: dict[str, Any], who: str) -> list[dict[str, Any]]:
        """`rollout.list`: newest first."""
        return [self.show(name, rows=False) for name in reversed(list(self._node.replica.state.rollouts))]

    async def shown(self, args: dict[str, Any], who: str) -> dict[str, Any]:
        """`rollout.show` {rollout}."""
        return self.show(_text(args, "rollout"))

    async def watched(self, args: dict[str, Any], who: str) -> AsyncIterator[dict[str, Any]]:
        """`rollout.watch` {rollout}: as show, whenever it changed, until it is over."""
        name, news = _text(args, "rollout"), asyncio.Event()
        last: dict[str, Any] = {}
        self._waves.news.add(news)
        try:
            while True:
                news.clear()
                now = self.show(name, rows=False)
                if now != last:
                    yield now
                if now["state"] not in ("running", "paused"):
                    return
                last = now
                await news.wait()
        finally:
            self._waves.news.discard(news)

    def show(self, name: str, *, rows: bool = True) -> dict[str, Any]:
        """Plain values.  Raises LocalError for a rollout that the cell does not know."""
        rollout = self._node.replica.state.rollouts.get(name)
        if rollout is None:
            raise LocalError(f"rollout {name[:32]}: this cell has none of that id")
        now, clock = time.monotonic(), self._waves.clocks.get(name)
        plan = self._waves.plan(rollout)
        found: dict[str, Any] = {
            "rollout": rollout.id,
            "agent": rollout.agent,
            "artefact": rollout.artefact.hex(),
            "state": rollout.state,
            "why": rollout.why,
            "wave": rollout.wave,
            "reached": len(rollout.devices),
        }
        if isinstance(plan, str):
            return {**found, "fault": plan}
        seen = self._waves.seen(rollout, plan, clock or Clock(rollout.wave, len(rollout.devices), now))
        counts = asdict(core.count(seen, now))
        sizes = core.sizes(plan.waves, len(seen.matched))
        found |= {"version": plan.version, "selector": plan.selector, "waves": list(plan.waves), "sizes": sizes}
        found |= {"matched": len(seen.matched), **counts, "allow_downgrade": plan.allow_downgrade}
        found |= {"created_s": plan.created_s, "gate": asdict(plan.gate), "size_bytes": plan.size_bytes}
        found["waits_for"] = clock.why if clock is not None and rollout.state == "running" else ""
        if rows:
            found["devices"] = [
                {
                    "device": device,
                    "state": report.state if (report := seen.reports.get(device)) is not None else "",
                    "why": report.why if report is not None else "",
                    "counts_as": core.state_of(device, seen, now),
                }
                for device in rollout.devices
            ]
        return found


def _bytes(args: dict[str, Any], key: str) -> bytes:
    value = args.get(key)
    if not isinstance(value, bytes):
        raise RemoteError(f"fleet: {key}: expected bytes, found {value!r:.40}")
    return value


def _text(args: dict[str, Any], key: str) -> str:
    value = args.get(key)
    if not isinstance(value, str):
        raise RemoteError(f"fleet: {key}: expected a text, found {value!r:.40}")
    return value


def _number(args: dict[str, Any], key: str) -> int:
    value = args.get(key)
    if type(value) is not int or value < 0:
        raise RemoteError(f"fleet: {key}: expected a number from 0, found {value!r:.40}")
    return value
