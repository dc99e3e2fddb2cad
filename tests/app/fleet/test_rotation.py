"""Certificates are renewed with a new key: by themselves, without a restart or a lost message, after a year off too."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from rotation_rig import rig
from swarm_cells import Member, until

from edgeswarm.app.audit import entries
from edgeswarm.app.swarm import rotation_files
from edgeswarm.app.swarm.node import SwarmNode
from edgeswarm.drivers import keys
from edgeswarm.drivers.mqtt.transport import Priority
from edgeswarm.drivers.pki import x509
from edgeswarm.wire import messages as msg
from edgeswarm.wire import renewal
from edgeswarm.wire.certificate import Signatory


async def test_device_at_day_21_renews_by_itself_and_goes_on(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        state = await r.add("d1", age_days=25)
        old = keys.load_or_make(state / "keys" / "device.key")[0].public
        member = await r.begin("d1")
        await r.up("d1")
        await until(lambda: member.node.rotation.files.certificate.exists() and r.roster.lookup("d1") != old, "renewed")
        await until(lambda: keys.load_or_make(state / "keys" / "device.key")[0].public == r.roster.lookup("d1"), "key")
        await until(
            lambda: not (state / "keys" / "device.key.old").exists(), "the old key goes once the new one worked"
        )
        assert x509.public_of((state / "swarm" / "device.crt").read_bytes()) == r.roster.lookup("d1")
        assert not list(state.glob("**/*.next")) and not (state / "swarm" / "next.crt").exists()
        await r.note("d1", "after")
        stats = member.node.transport.stats()["control"]
        assert (stats["losses"], stats["connects"]) == (0, 2)
        before = r.roster.version
        await r.end("d1")
        member = await r.begin("d1")
        await r.note("d1", "after a restart")
        await asyncio.sleep(0.3)
        assert r.roster.version == before


async def test_messages_in_both_directions_all_arrive_across_a_rotation(tmp_path: Path) -> None:
    """Two devices talk without a pause while one renews: QoS 1, counted, each once."""
    async with rig(tmp_path) as r:
        await r.add("d1", age_days=25)
        await r.add("d2")
        heard: dict[str, list[int]] = {"d1": [], "d2": []}
        # the second first: it must know the roster that names the new key when d1 begins to use it
        for device in ("d2", "d1"):
            member = await r.begin(device)
            member.node.peer.letters[msg.AppMessage] = lambda sender, message, to=device: heard[to].append(
                int(message.body)
            )
        ended = asyncio.Event()

        async def talk(device: str, to: str) -> int:
            number, post = 0, r.members[device].node.post
            await r.up(device)
            await r.up(to)
            while not ended.is_set():
                for _ in range(5):
                    message = msg.encode(msg.AppMessage(name="count", body=b"%d" % number))
                    post.send(post.topics.inbox(to), message, priority=Priority.MEDIUM, qos=1)
                    number += 1
                await asyncio.sleep(0.02)
            return number

        talks = [asyncio.create_task(talk("d1", "d2")), asyncio.create_task(talk("d2", "d1"))]
        files = r.members["d1"].node.rotation.files
        await until(lambda: r.roster.member("d1").keys[-1].certificate.serial == 2, "renewed")  # type: ignore[union-attr]
        await until(lambda: files.key.exists() and not files.old_key.exists() and not files.mark.exists(), "swapped")
        await until(lambda: r.members["d1"].node.rotation._settled, "signs with the new key")
        await asyncio.sleep(0.5)
        ended.set()
        sent = [await talk for talk in talks]
        with contextlib.suppress(AssertionError):
            await until(lambda: len(heard["d2"]) >= sent[0] and len(heard["d1"]) >= sent[1], "all arrived", within_s=8)
        for to, count in (("d2", sent[0]), ("d1", sent[1])):
            missing = sorted(set(range(count)) - set(heard[to]))
            assert not missing, (to, count, missing[:10], {d: m.refused for d, m in r.members.items()})
        assert heard["d2"] == list(range(sent[0])), "lost, doubled or out of order"
        assert heard["d1"] == list(range(sent[1])), "lost, doubled or out of order"
        for device in ("d1", "d2"):
            assert set(r.members[device].refused) <= {"replay"}, r.members[device].refused


async def test_certificate_that_ran_out_while_the_device_was_off_is_renewed_where_newcomers_ask(tmp_path: Path) -> None:
    async with rig(tmp_path, ago_days=330) as r:
        state = await r.add("d1", age_days=320)
        (state / "swarm" / "join-brokers").write_text("".join(f"{url}\n" for url in r.folder.config.join_brokers))
        old = keys.load_or_make(state / "keys" / "device.key")[0].public
        member = await r.begin("d1")
        await until(lambda: member.node.transport.is_connected, "the device is let in again")
        await r.note("d1", "back after a year")
        assert keys.load_or_make(state / "keys" / "device.key")[0].public == r.roster.lookup("d1") != old
        audited = [
            entry for entry in entries(r.state("controller") / "audit") if entry["action"] == "certificate.renew"
        ]
        assert ("d1", "late") in [(entry["name"], entry["cause"]) for entry in audited]


async def test_controller_that_was_off_for_longer_than_its_certificate_lasts_renews_it_itself(tmp_path: Path) -> None:
    """The broker's certificate has run out as well: the guard makes that anew when the controller is there."""
    async with rig(tmp_path, ago_days=400) as r:
        await until(lambda: r.controller.node.transport.is_connected, "the controller is let in")
        await r.add("d1")
        await r.begin("d1")
        await r.up("d1")


async def test_device_that_was_revoked_while_it_was_off_gets_nothing_where_newcomers_ask(tmp_path: Path) -> None:
    async with rig(tmp_path, ago_days=330) as r:
        state = await r.add("d1", age_days=320)
        (state / "swarm" / "join-brokers").write_text("".join(f"{url}\n" for url in r.folder.config.join_brokers))
        await r.revoke("d1", "lost")
        member = await r.begin("d1")
        await until(lambda: "revoked" in member.node.rotation.trouble, "it is told why")
        assert not member.node.transport.is_connected
        assert any("certificate_not_renewed" in line for line in member.log.ring.lines)


async def test_requests_that_are_not_the_devices_are_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        state = await r.add("d1", age_days=25)
        await r.add("d2", age_days=25)
        young = await r.add("d3", age_days=1)
        own = {name: Signatory.from_seed(r.seeds[name]) for name in ("d1", "d2", "d3")}
        new, thief = Signatory.from_seed(b"\5" * 32), Signatory.from_seed(b"\6" * 32)

        async def ask(device: str, old: Signatory, fresh: Signatory) -> str:
            request = renewal.Request("plant", device, fresh.public, old.public, b"n" * 16)
            signed = renewal.sign_request(request, new=fresh, old=old)
            answer = await r.renewer.answer(renewal.open_request(signed, fleet="plant", device=device))
            return renewal.read_answer(answer).code

        assert await ask("d1", thief, new) == "forged"
        assert await ask("d1", own["d2"], new) == "forged"
        assert await ask("d1", own["d1"], own["d2"]) == "forged"  # another's key
        assert await ask("d9", thief, new) == "unknown"
        assert await ask("d3", own["d3"], new) == "too-early"
        before = r.roster.version
        assert await asyncio.gather(ask("d1", own["d1"], new), ask("d2", own["d2"], thief)) == ["", ""]
        assert r.roster.version == before + 1, "many at once are one roster"
        assert await ask("d1", own["d1"], new) == "", "the answer was lost: the same again"
        assert r.roster.version == before + 1
        assert await ask("d1", own["d1"], Signatory.from_seed(b"\7" * 32)) == "forged", "the old key is over"
        assert state.exists() and young.exists()


class PowerCutError(BaseException):
    """Nothing is done any more."""


class Cuts:
    """After the Nth write or removal of a device's key and certificate files nothing is done any more there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: dict[Path, int] = {}
        self.done: dict[Path, list[str]] = {}
        for where, name, real in (
            ("edgeswarm.app.swarm.rotation_files.write_whole", "write", rotation_files.write_whole),
            ("edgeswarm.drivers.keys._make", "make", keys._make),
        ):
            monkeypatch.setattr(where, self._counted(name, real))
        monkeypatch.setattr(Path, "unlink", self._counted("remove", Path.unlink))

    def _counted(self, name: str, real: Any) -> Any:
        def act(*args: Any, **named: Any) -> Any:
            path = next(item for item in args if isinstance(item, Path))
            state = next((state for state in self.left if path.is_relative_to(state)), None)
            if state is not None and ("device.key" in path.name or path.parent.name == "swarm"):
                if not self.left[state]:
                    raise PowerCutError
                self.left[state] -= 1
                self.done[state].append(f"{name} {path.name}")
            return real(*args, **named)

        return act


async def test_power_cut_after_any_write_leaves_a_device_that_connects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fourteen devices renew at one time, each is cut off one step later than the one before, and starts again."""
    monkeypatch.setattr("edgeswarm.app.swarm.rotation.RENEWAL_SETTLE_S", 0.2)
    cuts = Cuts(monkeypatch)
    async with rig(tmp_path) as r:
        states = {f"d{step}": await r.add(f"d{step}", age_days=25) for step in range(1, 15)}
        for step, state in enumerate(states.values(), 1):
            cuts.left[state], cuts.done[state] = step, []

        async def life(device: str, state: Path) -> None:
            member = Member(state)
            await member.supervisor.start()
            member.log.crash = lambda *_, **__: None  # type: ignore[method-assign]
            member.node = SwarmNode(member.supervisor)
            await member.node.start()
            task = member.node.rotation._task
            assert task is not None
            await until(lambda: task.done() or not cuts.left[state], f"{device} is cut")
            await asyncio.sleep(0.3)
            with contextlib.suppress(PowerCutError):
                await member.end()
            before = len(cuts.done[state])
            cuts.left.pop(state)
            again = await r.begin(device)
            await r.up(device)
            await r.note(device, f"after {before} steps, the last {cuts.done[state][before - 1]}")
            files = again.node.rotation.files
            await until(
                lambda: (
                    keys.load_or_make(files.key)[0].public == r.roster.lookup(device)
                    and not files.old_key.exists()
                    and again.node.transport.is_connected
                    and r.roster.member(device).keys[-1].certificate.serial == 2  # type: ignore[union-attr]
                ),
                f"{device} goes on where it was: {cuts.done[state]}",
            )
            await r.note(device, "and works")

        await asyncio.gather(*(life(device, state) for device, state in states.items()))
        steps = cuts.done[states["d14"]]
        assert steps[0] == "make device.key.next" and "remove device.key.old" in steps, steps
