"""The index in its controller: what devices say becomes what operators see; what they must not say changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleet_index import DIGEST, NOW, TOPICS, FakeController, status
from sqlalchemy.exc import OperationalError

from edgeswarm.app.fleet import index as index_module
from edgeswarm.app.fleet import view
from edgeswarm.app.fleet.index_rows import AlertRow
from edgeswarm.app.swarm import log_tail
from edgeswarm.app.swarm.peer import CallError
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.changes import LabelsChanged
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, RemoteError
from edgeswarm.wire import codec
from edgeswarm.wire import messages as msg

DEVICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "controller": ("coordinator", ()),
    "press-1": ("worker", ("neural.compute",)),
    "press-2": ("worker", ()),
    "ann-console": ("administrator", ()),
}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[FakeController]:
    made = FakeController(tmp_path, DEVICES)
    await made.index.start()
    view.register(made)  # type: ignore[arg-type]
    yield made
    await made.index.close()


async def ask(desk: FakeController, what: str, **args: Any) -> Any:
    await desk.index.flush()
    answer = await desk.one[what](args, "ann-console")
    assert codec.loads(codec.dumps(answer)) == json.loads(json.dumps(answer))  # plain values, both ways to an operator
    return answer


async def shown(desk: FakeController, device: str) -> dict[str, Any]:
    found: dict[str, Any] = await ask(desk, "device", device=device)
    return found


async def ids(desk: FakeController, selector: str) -> list[str]:
    return [row[0] for row in (await ask(desk, "devices", selector=selector))["rows"]]


async def test_status_labels_and_roster_together_are_what_a_selector_finds(desk: FakeController) -> None:
    assert await ids(desk, "all") == sorted(DEVICES)
    assert await ids(desk, "state=never") == ["ann-console", "press-1", "press-2"]
    desk.says("press-1", TOPICS.status("press-1"), status())
    desk.node.replica.state.labels = {"press-1": ("line=4", "site=hall-3")}
    desk.changed(LabelsChanged("press-1"))
    await desk.index.flush()
    text = "site=hall-3,profile=rpi-5,tier<=B,has:vitals,may:neural.compute,agent:fuse,arch=aarch64,state=online"
    assert await desk.index.select(text) == ("press-1",)
    desk.node.replica.state.labels = {}
    desk.node.replica.restored[0]()
    assert await ids(desk, "label:site") == []


async def test_labels_that_a_device_claims_are_not_labels(desk: FakeController) -> None:
    has = replace(status().capabilities, labels=("site:hall-3", "site=hall-3"[:4]))
    desk.says("press-1", TOPICS.status("press-1"), status(capabilities=has))
    assert await ids(desk, "label:site") == []


async def test_status_of_one_device_on_the_topic_of_another_is_refused(desk: FakeController) -> None:
    desk.says("press-2", TOPICS.status("press-1"), status())
    desk.says("press-2", f"{TOPICS.start}/device/press-1/reported", msg.ReportedState(1, 1, ()))
    forged = msg.Alert(device="press-1", severity="critical", code="fire", text="not mine")
    desk.says("press-2", TOPICS.event("critical", "alert"), forged)
    life = msg.AgentLifecycle("press-1", "fuse", "failed", DIGEST, 1, 1)
    desk.says("press-2", TOPICS.event("medium", "agent.lifecycle"), life)
    assert len(desk.refused) == 4
    assert all("expected" in str(error) for error in desk.refused)
    assert (await shown(desk, "press-1"))["state"] == "never"
    assert (await ask(desk, "alerts"))["open"] == 0
    assert (await ask(desk, "events"))["events"] == []


async def test_device_that_is_not_heard_falls_silent_and_comes_back(
    desk: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "SWEEP_S", 0.0)
    desk.index.silent_s = 0.0
    followed = await follow(desk)
    desk.health("press-1")
    await desk.index.flush()
    desk.now += 100
    desk.index._clock_offset += 100  # as if that much time had passed: no clock was set
    assert await ids(desk, "state=silent") == ["press-1"]
    desk.health("press-1")
    assert await ids(desk, "state=online") == ["controller", "press-1"]
    assert [row["event"] for row in await followed(2)] == ["device.silent", "device.back"]


@pytest.mark.parametrize("why", ["broker gone", "clock set"])
async def test_nobody_is_called_silent_while_we_hear_nothing_or_after_our_clock_was_set(
    desk: FakeController, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(index_module, "SWEEP_S", 0.0)
    desk.index.silent_s = 0.05
    await asyncio.sleep(0.06)  # it has listened for long enough to judge
    desk.health("press-1")
    await desk.index.flush()
    desk.now += 10_000
    if why == "broker gone":
        desk.index._clock_offset += 10_000
        desk.node.transport.is_connected = False
    assert await ids(desk, "state=silent") == []


async def test_retained_online_status_of_a_dead_device_does_not_make_it_live(desk: FakeController) -> None:
    desk.says("press-1", TOPICS.status("press-1"), status(), retained=True)
    row = await shown(desk, "press-1")
    assert (row["state"], row["seen_s"], row["tier"]) == ("silent", 0, "B")
    desk.health("press-1")
    row = await shown(desk, "press-1")
    assert (row["state"], row["seen_s"]) == ("online", NOW)


async def follow(desk: FakeController, **args: Any) -> Any:
    rows = desk.many["events.follow"](args, "ann-console")
    first = asyncio.ensure_future(anext(rows))
    await asyncio.sleep(0)

    async def take(count: int) -> list[dict[str, Any]]:
        found = [await asyncio.wait_for(first, 5)]
        while len(found) < count:
            found.append(await asyncio.wait_for(anext(rows), 5))
        await rows.aclose()
        return found

    return take


async def test_events_are_followed_filtered_and_looked_back_at(desk: FakeController) -> None:
    followed = await follow(desk, device="press-2", severity="warning")
    for device, event in (("press-1", "failed"), ("press-2", "ready"), ("press-2", "failed")):
        life = msg.AgentLifecycle(device, "fuse", event, DIGEST, 1, 1, "cause-7", "it \x1b[2J broke")  # type: ignore[arg-type]
        desk.says(device, TOPICS.event("medium", "agent.lifecycle"), life)
    (row,) = await followed(1)
    assert (row["device"], row["severity"], row["text"], row["cause"]) == (
        "press-2", "error", "failed: it \x1b[2J broke", "cause-7"
    )  # fmt: skip
    found = await ask(desk, "events", severity="error")
    assert [one["device"] for one in found["events"]] == ["press-2", "press-1"]
    page = await ask(desk, "events", limit=2)
    assert len(page["events"]) == 2
    assert [one["device"] for one in (await ask(desk, "events", before=page["next"]))["events"]] == ["press-1"]


async def test_retained_event_is_not_told_again_at_each_start(desk: FakeController) -> None:
    alert = msg.Alert(device="press-1", severity="critical", code="fire", text="x")
    desk.says("press-1", TOPICS.event("critical", "alert"), alert, retained=True)
    assert (await ask(desk, "alerts"))["open"] == 0


async def test_device_that_floods_loses_its_own_events_and_nobody_else_s(desk: FakeController) -> None:
    for at in range(1_000):
        alert = msg.Alert(device="press-1", severity="critical", code=f"c{at}", text="flood")
        desk.says("press-1", TOPICS.event("critical", "alert"), alert)
    alert = msg.Alert(device="press-2", severity="critical", code="real", text="smoke")
    desk.says("press-2", TOPICS.event("critical", "alert"), alert)
    assert 200 <= len((await ask(desk, "events", device="press-1", limit=2_000))["events"]) < 300
    assert len((await ask(desk, "events", device="press-2"))["events"]) == 1
    assert desk.index.counts["events_over_rate"] > 700


async def test_what_waits_is_bounded_and_the_oldest_events_go_first(
    desk: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "INDEX_WAITING_EVENTS_MAX", 10)
    for at in range(25):
        life = msg.AgentLifecycle("press-1", f"a{at}", "ready", DIGEST, 1, 1)
        desk.says("press-1", TOPICS.event("medium", "agent.lifecycle"), life)
    found = await ask(desk, "events")
    assert [one["agent"] for one in found["events"]] == [f"a{at}" for at in range(24, 14, -1)]
    assert desk.index.counts["events_dropped"] == 15


async def test_full_disk_loses_events_and_no_state(desk: FakeController, monkeypatch: pytest.MonkeyPatch) -> None:
    store = desk.index._store
    real = store._events

    def full(*_: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    monkeypatch.setattr(store, "_events", full)
    desk.says("press-1", TOPICS.status("press-1"), status())
    desk.roster({**DEVICES, "press-3": ("worker", ())}, 2)
    await desk.index.flush()
    await desk.index.flush()
    assert desk.index.counts["batches_failed"] == 2
    assert len([line for line in desk.log.ring.lines if "fleet_index_not_written" in line]) == 1
    monkeypatch.setattr(store, "_events", real)
    assert (await shown(desk, "press-1"))["tier"] == "B"
    assert await ids(desk, "id=press-3") == ["press-3"]


async def test_file_that_breaks_while_it_is_used_is_made_anew_and_filled(
    desk: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = desk.index._store
    real = store._events

    def broken(*_: Any) -> None:
        monkeypatch.setattr(store, "_events", real)
        raise OperationalError("INSERT", {}, Exception("database disk image is malformed"))

    monkeypatch.setattr(store, "_events", broken)
    desk.health("press-1")
    await desk.index.flush()
    assert any("fleet_index_made_anew" in line for line in desk.log.ring.lines)
    assert await ids(desk, "all") == sorted(DEVICES)
    assert (await shown(desk, "press-1"))["state"] == "online"
    assert (desk.folder.path / "fleet.db.aside").exists()


async def test_twin_says_what_is_wanted_what_is_there_and_what_differs(desk: FakeController) -> None:
    state = desk.node.replica.state
    state.desired = lambda device: (("fuse", DIGEST, "00112233445566aa"), ("score", bytes(32), "b" * 16))
    desk.says("press-1", TOPICS.status("press-1"), status())
    desired = await ask(desk, "desired", device="press-1")
    assert [(row["agent"], row["by"]) for row in desired["agents"]] == [
        ("fuse", "rollout 00112233445566aa"),
        ("score", f"rollout {'b' * 16}"),
    ]
    reported = await ask(desk, "reported", device="press-1")
    assert [row["agent"] for row in reported["agents"]] == ["fuse"]
    assert reported["differs"] == ["score: wanted, not there"]
    said = msg.ReportedState(
        1, 1, (msg.RunningAgent("fuse", bytes(32), "ready", 1), msg.RunningAgent("score", bytes(32), "failed", 1))
    )
    said = replace(said, rollouts=(msg.RolloutRow("fuse", "a" * 16, DIGEST, "running", "on trial"),))
    desk.says("press-1", f"{TOPICS.start}/device/press-1/reported", said)
    row = await shown(desk, "press-1")
    assert [(one["rollout"], one["state"], one["text"]) for one in row["rollouts"]] == [
        ("a" * 16, "running", "on trial")
    ]
    twin = row["twin"]
    assert twin["differs"] == [f"fuse: wants {DIGEST.hex()[:12]}, has 000000000000", "score: failed"]


async def test_labels_are_changed_through_the_log_and_only_whole_ones(desk: FakeController) -> None:
    desk.node.replica.state.labels = {"press-1": ("line=4", "site=hall-3")}
    done = await ask(desk, "labels.set", device="press-1", set=["line=5", "zone=a b"], remove=["site"])
    assert done["labels"] == ["line=5", "zone=a b"]
    assert [cmd.decode(one) for one in desk.proposed] == [
        cmd.SetLabels("press-1", ("line=5", "zone=a b"), "ann-console")
    ]
    await ask(desk, "labels.set", device="press-1", set=["line=4"])
    assert len(desk.proposed) == 1  # nothing changed
    many = [f"k{at}=1" for at in range(40)]
    for bad in [{"set": [one]} for one in ("line", "=x", "a b=x", "a=\x1b", 7)] + [{"remove": ["none"]}, {"set": many}]:
        with pytest.raises(LocalError, match="label"):
            await ask(desk, "labels.set", device="press-1", **bad)
    with pytest.raises(LocalError, match="roster"):
        await ask(desk, "labels.set", device="press-9", set=["a=b"])

    async def nobody() -> None:
        raise RemoteError("no leader")

    desk.node.barrier = nobody
    with pytest.raises(RemoteError, match="no leader answers"):
        await ask(desk, "labels.set", device="press-1", set=["a=b"])
    assert desk.needs["labels.set"] == "deploy"


async def test_alert_is_kept_until_somebody_acknowledges_it(desk: FakeController) -> None:
    heard: list[AlertRow] = []
    desk.index.on_alert.append(heard.append)
    for _ in range(3):
        alert = msg.Alert(device="press-1", severity="error", code="disk-full", text="98 %", agent="fuse")
        desk.says("press-1", TOPICS.event("critical", "alert"), alert)
    desk.says("press-2", TOPICS.event("critical", "custom.smoke"), msg.AppMessage("smoke", b"1"))
    found = await ask(desk, "alerts")
    assert [(one["device"], one["code"], one["count"]) for one in found["alerts"]] == [
        ("press-2", "custom.smoke", 1), ("press-1", "disk-full", 3)
    ]  # fmt: skip
    assert len(heard) == 4
    done = await ask(desk, "alerts.ack", ids=[one["id"] for one in found["alerts"]] + [77])
    assert (len(done["acknowledged"]), done["open"]) == (2, 0)
    assert [one["acked_by"] for one in (await ask(desk, "alerts", all=True))["alerts"]] == ["ann-console"] * 2


@pytest.mark.parametrize(
    ("what", "args"),
    [
        ("devices", {"selector": "site="}),
        ("devices", {"selector": 7}),
        ("devices", {"sort": "labels; DROP TABLE devices"}),
        ("devices", {"cursor": "nonsense"}),
        ("devices", {"limit": "many"}),
        ("device", {}),
        ("device", {"device": "../x"}),
        ("device", {"device": "press-9"}),
        ("events", {"severity": "loud"}),
        ("events", {"before": "x"}),
        ("alerts.ack", {"ids": []}),
        ("alerts.ack", {"ids": ["1"]}),
        ("alerts.ack", {"ids": [1 << 70]}),
        ("alerts.ack", {"ids": [1] * 2_000}),
        ("labels.set", {"device": "press-1", "set": "a=b"}),
        ("logs", {"device": "nobody"}),
        ("top", {"minutes": 1.5}),
    ],
)
async def test_hostile_questions_are_refused_by_name(desk: FakeController, what: str, args: dict[str, Any]) -> None:
    with pytest.raises(EdgeSwarmError, match=r"expected|roster|missing"):
        await desk.one[what](args, "ann-console")


async def test_number_of_followers_is_bounded(desk: FakeController, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "INDEX_FOLLOWERS_MAX", 1)
    followed = await follow(desk)
    with pytest.raises(LimitError, match="INDEX_FOLLOWERS_MAX"):
        await anext(desk.many["events.follow"]({}, "x"))
    desk.says("press-1", TOPICS.event("medium", "a.b"), msg.AppMessage("n", b""))
    assert len(await followed(1)) == 1
    assert not desk.index._followers


async def test_top_and_support_say_how_the_fleet_is(desk: FakeController) -> None:
    desk.says("press-1", TOPICS.status("press-1"), status(agents=(msg.RunningAgent("fuse", DIGEST, "failed", 1, 4),)))
    found = await ask(desk, "top")
    assert (found["devices"], found["agents"], found["failed"], found["restarts"]) == (4, 1, 1, 4)
    assert found["states"] == {"never": 2, "online": 2}
    assert found["busiest"][0]["device"] == "press-1"
    assert found["by_agent"] == [{"agent": "fuse", "devices": 1, "failed": 1}]
    assert (await ask(desk, "support"))["top"]["devices"] == 4


# --- logs -----------------------------------------------------------------------------------------------------------


async def test_log_tail_is_for_administrators_and_the_granted_and_bounded(desk: FakeController) -> None:
    for at in range(50):
        desk.log.info("tick", count=at)
    log_tail.serve(desk.node)
    tail = desk.node.peer.methods["logs.tail"]
    lines: Any = codec.loads(await tail("ann-console", codec.dumps([3])))
    assert [json.loads(line)["count"] for line in lines] == [47, 48, 49]
    for sender in ("press-1", "controller", "nobody"):
        with pytest.raises(CallError, match="tool:logs"):
            await tail(sender, codec.dumps([3]))
    desk.roster({**DEVICES, "controller": ("coordinator", ("tool:logs",))}, 2)
    assert await tail("controller", codec.dumps([0])) == codec.dumps([])
    for bad in (b"", codec.dumps([-1]), codec.dumps([10**9]), codec.dumps("x"), bytes(5_000)):
        with pytest.raises(EdgeSwarmError):
            await tail("ann-console", bad)
    for _ in range(2_000):
        desk.log.info("long", text="ä" * 400)
    data = await tail("ann-console", codec.dumps([2_000]))
    assert len(data) <= 257 << 10


async def test_logs_asks_the_device_and_takes_only_lines(desk: FakeController) -> None:
    desk.answers["press-1 logs.tail"] = lambda body: codec.dumps(["a", "b"])
    assert (await ask(desk, "logs", device="press-1"))["lines"] == ["a", "b"]
    desk.answers["press-1 logs.tail"] = lambda body: codec.dumps([1])
    with pytest.raises(RemoteError, match="press-1: logs.tail: expected a list of lines"):
        await ask(desk, "logs", device="press-1")

    def old(body: bytes) -> bytes:
        raise CallError("no method", who="press-1", code="unknown-method")

    desk.answers["press-1 logs.tail"] = old
    with pytest.raises(RemoteError, match="too old"):
        await ask(desk, "logs", device="press-1")
    assert (await ask(desk, "logs", device="controller"))["device"] == "controller"
