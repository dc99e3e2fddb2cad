"""Wrong use of the operator's and the joining commands: no fleet, no file, a bad flag: a sentence, no traceback."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from edgeswarm.app.cli import fleet_broker, root
from edgeswarm.app.cli.fleet import COMMANDS
from edgeswarm.app.fleet.init import Wanted, init
from edgeswarm.drivers.pki.sealed import Cost
from edgeswarm.errors import LocalError

NOW_S = 1_795_000_000
PUBLIC = [  # asks the controller, with arguments that are right
    "alerts", "approve 4f1d09aa3c7e", "deny 4f1d09aa3c7e", "desired d1", "devices", "events", "kick d1", "labels d1",
    "logs d1", "operator list", "pending", "reported d1", "rollouts", "show d1", "status", "token create",
    "token list", "token revoke abcdefghijklm", "top --count 1",
]  # fmt: skip
SIGNED = ["abort 5f2b1c0a9d8e7f60", "pause 5f2b1c0a9d8e7f60", "resume 5f2b1c0a9d8e7f60", "rollback 5f2b1c0a9d8e7f60",
          "revoke d1 --yes", "rotate operator", "operator add bob -o kit --kit-passphrase-file pass"]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a passphrase; no settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("EDGESWARM_FLEET", "EDGESWARM_PASSPHRASE_FILE", "EDGESWARM_TOKEN", "EDGESWARM_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    Path("pass").write_text("a secret phrase\n")
    Path("pass").chmod(0o600)
    Path("junk").write_text("junk\n")
    Path("junk").chmod(0o600)
    return tmp_path


@pytest.fixture
def fleet(here: Path) -> Path:
    """A fleet whose controller does not run."""
    wanted = Wanted("lab", ("127.0.0.1",))
    return init(here / "fleet", wanted, passphrase="a secret phrase", now_s=NOW_S, cost=Cost(1, 8192)).path


def test_every_command_of_fleet_is_tried_here() -> None:
    tried = {words.split()[0] for words in [*PUBLIC, *SIGNED]}
    others = {"backup", "broker", "deploy", "home-assistant", "init", "restore", "rotate", "serve", "support-bundle"}
    assert tried | others == set(COMMANDS)
    assert set(fleet_broker.broker.commands) == {"check", "config", "run", "unit"}


@pytest.mark.parametrize("words", [*PUBLIC, *SIGNED, "serve", "serve --broker", "broker check", "broker run",
                                   "broker config", "broker config --write", "backup -o x", "rotate issuer",
                                   "support-bundle -o x", "home-assistant --broker mqtt://127.0.0.1:1"])  # fmt: skip
def test_where_no_fleet_is_the_folder_is_named(words: str, cli, here: Path) -> None:
    done = cli("fleet", *words.split(), "--fleet", str(here / "none"))
    assert done.code == 2
    assert str(here / "none") in done.err and "Traceback" not in done.err
    assert sorted(path.name for path in here.iterdir()) == ["junk", "pass"]


@pytest.mark.parametrize("words", [*PUBLIC, *(f"{words} --passphrase-file pass" for words in SIGNED)])
def test_where_the_controller_does_not_run_the_cure_is_told(words: str, cli, fleet: Path) -> None:
    done = cli("fleet", *words.split(), "--fleet", str(fleet))
    assert done.code == 8
    assert "its controller does not run" in done.err and "edgeswarm fleet serve" in done.err
    assert "edgeswarm run" not in done.err  # that is how a device is started
    as_json = cli("fleet", *words.split(), "--fleet", str(fleet), "--json")
    assert json.loads(as_json.err)["error"]["kind"] == "NotRunningError"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Wanted("Bad Name", ("h",)), "name: expected a-z, 0-9 and -, at most 32, found 'Bad Name'"),
        (Wanted("lab", ("h",), cell="join"), "cell: expected .* and not controller or join, found 'join'"),
        (Wanted("lab", ("h",), operator="A"), "operator: expected"),
        (Wanted("lab", ("good", "bad host")), "host: expected a host name or an address, found 'bad host'"),
        (Wanted("lab", ("h",), bind="eth0"), "bind: expected an address of this machine, found 'eth0'"),
        (Wanted("lab", ("h",), port=1, join_port=1), "two ports"),
    ],
)
def test_a_fleet_that_cannot_be_is_not_begun(wanted: Wanted, text: str, here: Path) -> None:
    with pytest.raises(LocalError, match=text):
        init(here / "fleet", wanted, passphrase="a secret phrase", now_s=NOW_S, cost=Cost(1, 8192))
    assert sorted(path.name for path in here.iterdir()) == ["junk", "pass"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("fleet init --name lab --host h --passphrase-file none", 2, "passphrase file none: No such file or directory"),
        ("fleet init --name lab --host h --passphrase-file short", 2, "at least 8 characters"),
        ("fleet init --name lab --host h", 2, "no terminal to ask on; --passphrase-file"),
        ("fleet operator install none.kit", 2, "none.kit: No such file or directory"),
        ("fleet operator install junk --passphrase-file pass", 2, "junk: expected three lines"),
        ("fleet restore none.backup", 2, "none.backup: No such file or directory"),
        ("fleet restore junk", 2, "no terminal to ask on; --yes"),
        ("fleet restore junk --yes --passphrase-file pass", 2, "junk: expected three lines"),
        ("fleet deploy none.af", 2, "'none.af' does not exist"),
        ("fleet deploy junk", 3, "junk: line 1: expected a table of keys"),
        ("fleet token create --ttl soon", 2, "--ttl: expected a number and s, m, h, d or w"),
        ("fleet token create --label hall", 2, "--label: expected key=value, found 'hall'"),
        ("fleet operator add BAD! -o kit", 2, "operator: expected a-z, 0-9 and -, at most 32, found 'BAD!'"),
        ("fleet home-assistant --broker bogus", 2, "expected mqtt://, mqtts://, ws:// or wss://"),
        ("fleet bogus", 2, "No such command 'bogus'"),
        ("join", 2, "token: none given"),
        ("join bogus", 2, "token: expected a text that starts with 'es1'"),
        ("join --token-file none", 2, "none: No such file or directory"),
        ("join --token-file junk", 2, "token: expected a text that starts with 'es1'"),
        ("leave", 2, "this device is in no cell"),
        ("leave --factory-reset", 2, "no terminal to ask on; --yes"),
        ("audit verify", 2, "no device key is here"),
        ("audit show", 2, "no audit log is here"),
        ("audit show --since yesterday", 2, "--since: expected a date"),
        ("audit export out", 2, "no device key is here"),
        ("daemon upgrade", 8, "no supervisor runs on"),
        ("daemon upgrade 9.9", 2, "this program was not installed by a bundle"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(words: str, code: int, text: str, cli, here: Path) -> None:
    Path("short").write_text("short\n")
    Path("short").chmod(0o600)
    Path("state").mkdir()
    command, *_ = words.split()
    place = ["--fleet", "fleet"] if command == "fleet" and "bogus" not in words.split()[1:2] else []
    place = ["--state", "state"] if command in ("join", "leave", "audit") or words.startswith("daemon") else place
    done = cli(*words.split(), *place)
    assert (done.code, text in done.err) == (code, True), done.err


def test_publisher_that_a_named_state_directory_trusts_may_be_rolled_out(cli, fleet: Path) -> None:
    assert cli("agent", "new", "watch").code == 0
    made = ("--weights", "watch/weights.json", "--state", "mine", "-o", "watch.af")
    assert cli("agent", "build", "watch/agent.yaml", *made).code == 0
    rolled = ("fleet", "deploy", "watch.af", "--fleet", str(fleet))
    unknown = cli(*rolled)
    assert (unknown.code, "--publisher FILE.pub" in unknown.err) == (5, True)
    done = cli(*rolled, "--state", "mine")
    assert (done.code, "its controller does not run" in done.err) == (8, True), done.err


def test_file_that_nobody_signed_is_not_rolled_out(cli, fleet: Path) -> None:
    assert cli("agent", "new", "watch").code == 0
    made = ("--weights", "watch/weights.json", "--unsigned", "-o", "watch.af")
    assert cli("agent", "build", "watch/agent.yaml", *made).code == 0
    done = cli("fleet", "deploy", "watch.af", "--fleet", str(fleet))
    assert (done.code, "expected a signed file" in done.err) == (5, True)


def test_who_says_no_has_changed_nothing(cli, fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert root.run(["fleet", "revoke", "d1", "--fleet", str(fleet)]) == 130
