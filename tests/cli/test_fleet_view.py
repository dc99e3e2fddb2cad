"""`edgeswarm fleet devices|show|top|events|alerts|labels|logs|...` over an index: what scripts get, what people see."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleet_index import DIGEST, NOW, TOPICS, FakeLink, status

from edgeswarm.app.fleet import link
from edgeswarm.core.cell import commands as cmd
from edgeswarm.core.cell.changes import LabelsChanged
from edgeswarm.wire import codec
from edgeswarm.wire import messages as msg

EVIL = "x\x1b[2J\x1b]0;owned\x07\x9b31m\x7f"
DEVICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "controller": ("coordinator", ()),
    "press-1": ("worker", ("neural.compute",)),
    "press-2": ("worker", ()),
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLink]:
    made = FakeLink(tmp_path, DEVICES)
    monkeypatch.setattr(link, "open_link", made.open)

    def speak() -> None:
        desk = made.desk
        desk.node.replica.state.labels = {"press-1": ("site=hall-3",)}
        desk.changed(LabelsChanged("press-1"))
        has = replace(status().capabilities, software=f"edgeswarm {EVIL}")
        desk.says("press-1", TOPICS.status("press-1"), status(capabilities=has))
        life = msg.AgentLifecycle("press-1", "fuse", "failed", DIGEST, 1, 1, "", EVIL)
        desk.says("press-1", TOPICS.event("medium", "agent.lifecycle"), life)
        alert = msg.Alert(device="press-1", severity="critical", code="clone", text=EVIL)
        desk.says("press-1", TOPICS.event("critical", "alert"), alert)

    made.do(speak)
    yield made
    made.close()


def no_controls(text: str) -> None:
    assert not [c for c in text if not c.isprintable() and c != "\n"], text


def test_devices_are_listed_selected_limited_and_as_json(fake: FakeLink, cli: Any) -> None:
    done = cli("fleet", "devices")
    assert "press-1" in done.out
    assert done.out.endswith("3 devices: 1 never, 2 online\n")
    found = cli("fleet", "devices", "site=hall-3,tier<=B", "--json").json()
    (row,) = found["devices"]
    assert (row["device"], row["labels"], row["agents"], row["profile"]) == ("press-1", {"site": "hall-3"}, 1, "rpi-5")
    assert found["states"] == {"online": 1}
    assert [one["device"] for one in cli("fleet", "devices", "--limit", 2, "--json").json()["devices"]] == [
        "controller",
        "press-1",
    ]
    assert cli("fleet", "devices", "id=nobody", "--json").json() == {"states": {}, "devices": []}
    assert cli("fleet", "devices", "--sort", "seen", "--descending", "--json").json()["devices"][-1]["seen_s"] == 0
    assert cli("fleet", "devices", "--watch", "--count", 2, "--interval", 0.2).out.count("3 devices") == 2


def test_selector_that_cannot_be_read_is_a_usage_error_that_says_where(fake: FakeLink, cli: Any) -> None:
    done = cli("fleet", "devices", "tier<=D")
    assert done.code == 2
    assert "character 7: expected a tier" in done.err


def test_pages_are_put_together_whatever_their_size(fake: FakeLink, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeswarm.app.cli.fleet_view.PAGE_ROWS", 2)
    found = cli("fleet", "devices", "--json").json()
    assert [one["device"] for one in found["devices"]] == ["controller", "press-1", "press-2"]
    assert sum(found["states"].values()) == 3


@pytest.mark.parametrize(
    "words",
    [
        ("devices",),
        ("show", "press-1"),
        ("top", "--count", "1"),
        ("events",),
        ("alerts",),
        ("alerts", "--all"),
        ("reported", "press-1"),
        ("desired", "press-1"),
        ("labels", "press-1"),
        ("logs", "press-1"),
    ],
)
def test_nothing_that_a_device_says_reaches_the_terminal_as_a_command(
    fake: FakeLink, cli: Any, words: tuple[str, ...]
) -> None:
    evil_lines = [EVIL, json.dumps({"at": EVIL, "level": "error", "event": EVIL, "text": EVIL}), "[" * 5_000]
    fake.desk.answers["press-1 logs.tail"] = lambda body: codec.dumps(evil_lines)
    for options in ((), ("--json",)):
        done = cli("fleet", *words, *options)
        assert done.code == 0, done.err
        assert done.out
        no_controls(done.out + done.err)
        if options:
            for line in done.out.splitlines() if words[0] in ("events", "logs", "top") else [done.out]:
                json.loads(line)


def test_show_holds_the_twin_the_certificate_labels_and_what_happened(fake: FakeLink, cli: Any) -> None:
    fake.desk.node.replica.state.desired = lambda device: (("score", bytes(32), "a" * 16),)
    done = cli("fleet", "show", "press-1")
    for word in (
        "press-1, worker",
        "tier B",
        "site=hall-3",
        "neural.compute",
        "until 20",
        "score",
        "wanted, not there",
        "clone",
    ):
        assert word in done.out, word
    found = cli("fleet", "show", "press-1", "--json").json()
    assert found["twin"]["desired"][0]["by"] == f"rollout {'a' * 16}"
    assert cli("fleet", "show", "nobody").code == 2
    assert cli("fleet", "desired", "press-1", "--json").json()["agents"][0]["agent"] == "score"
    assert cli("fleet", "reported", "press-1", "--json").json()["differs"] == ["score: wanted, not there"]


def test_labels_are_set_and_taken_away(fake: FakeLink, cli: Any) -> None:
    assert cli("fleet", "labels", "press-1").out == "site=hall-3\n"
    assert cli("fleet", "labels", "press-2").out == "none\n"
    done = cli("fleet", "labels", "press-1", "line=4", "site-", "--json").json()
    assert done["labels"] == ["line=4"]
    assert cmd.decode(fake.desk.proposed[0]) == cmd.SetLabels("press-1", ("line=4",), "ann-console")
    assert cli("fleet", "labels", "press-1", "line").code == 2
    assert cli("fleet", "labels", "press-1", "none-").code == 2


def test_alerts_are_shown_and_acknowledged(fake: FakeLink, cli: Any) -> None:
    (row,) = cli("fleet", "alerts", "--json").json()["alerts"]
    assert cli("fleet", "alerts", "--ack", row["id"]).out == f"acknowledged {row['id']}; 0 open\n"
    assert cli("fleet", "alerts").out == "0 open\n"
    assert "ann-console" in cli("fleet", "alerts", "--all").out


def test_events_are_shown_oldest_first_and_followed(fake: FakeLink, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.loads(line) for line in cli("fleet", "events", "--json").out.splitlines()]
    assert [row["event"] for row in rows][-2:] == ["agent.lifecycle", "alert"]
    rows = [json.loads(line) for line in cli("fleet", "events", "--severity", "critical", "--json").out.splitlines()]
    assert [row["event"] for row in rows] == ["alert"]
    real = fake.follow

    def three(what: str, **args: Any) -> Any:
        threading.Timer(0.1, lambda: fake.do(lambda: [tell(at) for at in range(3)])).start()
        for at, row in enumerate(real(what, **args)):
            yield row
            if at == 2:
                raise KeyboardInterrupt

    def tell(at: int) -> None:
        message = msg.AppMessage(f"n{at}", b"")
        fake.desk.says("press-2", TOPICS.event("medium", "a.b"), message)

    monkeypatch.setattr(fake, "follow", three)
    out = cli("fleet", "events", "-n", 0, "--follow", "--device", "press-2", "--json").out
    assert [json.loads(line)["text"] for line in out.splitlines()] == [f"n{at}, 0 bytes" for at in range(3)]


def test_logs_of_a_device_are_grepped(fake: FakeLink, cli: Any) -> None:
    lines = [json.dumps({"at": "2026-11-21T00:00:00.000Z", "level": "info", "event": f"e{at}"}) for at in range(3)]
    fake.desk.answers["press-1 logs.tail"] = lambda body: codec.dumps(lines)
    assert [
        json.loads(line)["event"] for line in cli("fleet", "logs", "press-1", "--grep", "e1", "--json").out.splitlines()
    ] == ["e1"]
    assert "e2" in cli("fleet", "logs", "press-1").out


def test_command_line_imports_no_database() -> None:
    """10,000 devices in 300 ms leave no room for it."""
    code = (
        "import sys; from edgeswarm.app.cli import fleet_devices, fleet_events; from edgeswarm.app.fleet import link;"
        "print([name for name in ('sqlalchemy', 'cryptography', 'numpy', 'paho') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_command_of_the_view_has_help_with_examples(cli: Any) -> None:
    names = "devices show top desired reported labels events alerts logs support-bundle home-assistant"
    for name in names.split():
        done = cli("fleet", name, "--help")
        assert done.code == 0
        assert "Example" in done.out
        assert "--json" in done.out


def test_age_is_told_in_the_unit_that_fits() -> None:
    from edgeswarm.app.cli.fleet_view import ago

    assert [ago(NOW - age, NOW) for age in (-5, 3, 119, 120, 7_200, 200_000)] == [
        "0 s",
        "3 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]
    assert ago(0, time.time()) == "-"
