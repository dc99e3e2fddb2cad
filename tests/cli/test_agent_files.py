"""agent show, sign, and the checks of verify that need no jail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeswarm import agentfile


@pytest.fixture
def small(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signed agent file of a publisher that this device trusts."""
    monkeypatch.chdir(tmp_path)
    assert cli("agent", "new", "small").code == 0
    path = tmp_path / "small.af"
    assert cli("agent", "build", "small/agent.yaml", "--weights", "small/weights.json", "-o", path).code == 0
    return path


def broken(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    out = path.with_name("broken.af")
    out.write_bytes(data.replace(old, new, 1))
    return out


def test_show_says_what_a_file_holds(cli, small: Path) -> None:
    row = cli("agent", "show", small, "--json").json()
    assert row["header"]["name"] == "small"
    assert row["signature"]["state"] == "trusted"
    assert row["layout"]["input"]["width"] == 2
    assert row["warnings"] == []
    assert row["limits"]["memory_mb"] == {"value": 64, "from": "agent file"}
    assert row["limits"]["network_bandwidth_mbps"] == {"value": 100.0, "from": "class agent"}
    assert row["sha256"] == agentfile.read(small.read_bytes()).sha256
    text = cli("agent", "show", small).out
    for part in ("small 1.0.0", "trusted here", "vitals", "hysteresis", "wasm_kernel", row["sha256"]):
        assert part in text


def test_show_tells_the_states_of_a_signature_apart(cli, small: Path, tmp_path: Path) -> None:
    def state(path: Path, *more: object) -> str:
        found = cli("agent", "show", path, "--json", *more).json()["signature"]["state"]
        assert isinstance(found, str)
        return found

    (tmp_path / "nobody").mkdir()
    assert state(small, "--trust", tmp_path / "nobody") == "unknown"
    assert state(broken(small, b"rate_hz: 5.0", b"rate_hz: 6.0")) == "broken"
    assert cli("agent", "build", "small/agent.yaml", "--random-seed", 1, "--unsigned", "-o", "u.af").code == 0
    assert state(Path("u.af")) == "none"


def test_show_reads_a_description_without_its_control_characters(cli, small: Path) -> None:
    source = Path("small/agent.yaml")
    source.write_text(source.read_text().replace('description: ""', 'description: "\\x1b[2Jgone"'))
    assert cli("agent", "build", source, "--random-seed", 1, "-o", "x.af").code == 0
    done = cli("agent", "show", "x.af")
    assert "?[2Jgone" in done.out
    assert "\x1b" not in done.out
    assert "\x1b" not in cli("agent", "show", "x.af", "--json").out


def test_a_file_that_is_cut_or_changed_is_refused_with_its_place(cli, small: Path) -> None:
    cut = small.with_name("cut.af")
    cut.write_bytes(small.read_bytes()[:-700])
    for command in ("show", "verify"):
        done = cli("agent", command, cut)
        assert (done.code, "offset" in done.err, "cut.af" in done.err) == (3, True, True)
    done = cli("agent", "show", small.with_name("none.af"))
    assert (done.code, "No such file" in done.err) == (3, True)
    done = cli("agent", "show", "small")
    assert (done.code, "Is a directory" in done.err) == (3, True)


def test_signing_again_changes_the_signature_only(cli, small: Path, state: Path) -> None:
    before = agentfile.read(small.read_bytes())
    done = cli("agent", "sign", small, "--key", "site.key", "-o", "site.af", "--json").json()
    after = agentfile.read(Path("site.af").read_bytes())
    assert after.header_bytes == before.header_bytes
    assert after.sections == before.sections
    assert after.signature is not None
    assert before.signature is not None
    assert after.signature.publisher == done["publisher"] != before.signature.publisher
    (state / "trust.d" / "site.pub").write_bytes(Path("site.key.pub").read_bytes())
    assert cli("agent", "show", "site.af", "--json").json()["signature"]["state"] == "trusted"
    assert cli("agent", "sign", "site.af").code == 0
    assert Path("site.af").read_bytes() == small.read_bytes()


def test_what_is_no_agent_file_is_not_signed(cli, small: Path, state: Path) -> None:
    Path("x.af").write_text("hello")
    assert cli("agent", "sign", "x.af").code == 3
    assert Path("x.af").read_text() == "hello"


def test_a_trust_folder_that_is_not_there_is_no_empty_one(cli, small: Path) -> None:
    done = cli("agent", "verify", small, "--trust", "nowhere")
    assert (done.code, "nowhere" in done.err) == (2, True)


def test_verify_of_a_file_without_kernel_says_so_and_goes_through_the_rest(cli, small: Path) -> None:
    Path("only.af").write_text('version: "1.0"\nname: only\nneural_config: {input_size: 1, output_size: 1}\n')
    done = cli("agent", "verify", "only.af", "--json")
    checks = {row["name"]: row for row in json.loads(done.out)["checks"]}
    assert done.code == checks["signature"]["exit_code"] == 5
    assert not checks["kernel"]["ok"]
    assert "expected a kernel, found none" in checks["kernel"]["detail"]


# --- in jails --------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_verify_computes_the_golden_vectors(cli, small: Path) -> None:
    done = cli("agent", "verify", small, "--json").json()
    assert done["ok"]
    assert [row["name"] for row in done["checks"]] == ["file", "signature", "kernel", "golden"]
    assert "16 rows computed in a jail" in done["checks"][3]["detail"]
    assert "all is well" in cli("agent", "verify", small).out


@pytest.mark.e2e
def test_verify_finds_a_kernel_that_computes_something_else(cli, small: Path) -> None:
    file = agentfile.read(small.read_bytes())
    golden = bytearray(file.section("golden"))
    golden[11] ^= 0x40  # the exponent of the first answer
    data = agentfile.build(file.header, {**file.sections, "golden": bytes(golden)})
    Path("wrong.af").write_bytes(data)
    assert cli("agent", "sign", "wrong.af").code == 0
    done = cli("agent", "verify", "wrong.af", "--json")
    failed = [row for row in json.loads(done.out)["checks"] if not row["ok"]]
    assert (done.code, [row["name"] for row in failed]) == (3, ["golden"])
    assert "golden row 0 column 0: expected" in failed[0]["detail"]


@pytest.mark.e2e
def test_verify_ends_with_the_code_of_the_first_check_that_failed(cli, small: Path, tmp_path: Path) -> None:
    (tmp_path / "nobody").mkdir()
    done = cli("agent", "verify", small, "--trust", tmp_path / "nobody")
    assert (done.code, "signature failed" in done.out) == (5, True)
    assert "golden     ok" in done.out
