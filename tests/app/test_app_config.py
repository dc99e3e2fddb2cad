"""Settings: who overrides whom, where each value came from, and every fault at once with its file and key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.app import config
from edgeswarm.app.report import config as shown
from edgeswarm.drivers.profiles import names
from edgeswarm.errors import ConfigError
from edgeswarm.limits import CONFIG_BYTES_MAX

KEY, VARIABLE = "jails.ring_kb", "EDGESWARM_JAILS__RING_KB"


def load(tmp_path: Path, text: str | None = None, **more: Any) -> config.Settings:
    file = None
    if text is not None:
        file = tmp_path / "site.toml"
        file.write_text(text)
    more.setdefault("environ", {})
    return config.load(state=tmp_path / "state", file=file, **more)


def faults(tmp_path: Path, text: str | None = None, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "environ", "flags", "value", "origin"),
    [
        (None, {}, {}, 256, "profile rpi-zero-2w"),
        ("[jails]\nring_kb = 512\n", {}, {}, 512, "file {file}"),
        ("[jails]\nring_kb = 512\n", {VARIABLE: "640"}, {}, 640, f"environment {VARIABLE}"),
        ("[jails]\nring_kb = 512\n", {VARIABLE: "640"}, {KEY: 768}, 768, "flag"),
        (None, {VARIABLE: "640"}, {}, 640, f"environment {VARIABLE}"),
        (None, {}, {KEY: 768}, 768, "flag"),
    ],
)
def test_profile_then_file_then_environment_then_flag(
    tmp_path: Path, file: str | None, environ: dict[str, str], flags: dict[str, Any], value: int, origin: str
) -> None:
    found = load(tmp_path, file, profile="rpi-zero-2w", environ=environ, flags=flags)
    assert found.profile.jails.ring_kb == value
    row = shown(found)[KEY]
    assert row == {"value": value, "origin": origin.format(file=tmp_path / "site.toml")}
    assert shown(found)["limits.cpu_cores"]["origin"] == "profile rpi-zero-2w"


@given(st.integers(0, 15))
def test_of_every_set_of_places_that_name_a_key_the_last_wins(tmp_path_factory: Any, which: int) -> None:
    tmp_path = tmp_path_factory.mktemp("c")
    file = "[jails]\nring_kb = 101\n" if which & 1 else ""
    environ = {VARIABLE: "102"} if which & 2 else {}
    flags = {KEY: 103} if which & 4 else {}
    profile = "rpi-zero-2w" if which & 8 else "default"
    expected = (
        103 if which & 4 else 102 if which & 2 else 101 if which & 1 else {"rpi-zero-2w": 256, "default": 1024}[profile]
    )
    assert load(tmp_path, file, profile=profile, environ=environ, flags=flags).profile.jails.ring_kb == expected


@pytest.mark.parametrize("name", names())
def test_every_profile_is_shown_whole_with_where_each_value_came_from(tmp_path: Path, name: str) -> None:
    rows = shown(load(tmp_path, profile=name))
    assert {"limits.memory_mb", "timing.deadline_ms_max", "device", "state", "runtime", "agents"} <= rows.keys()
    assert {row["origin"] for row in rows.values()} <= {f"profile {name}", "default", "flag --state"}


def test_the_profile_itself_may_come_from_file_environment_or_flag(tmp_path: Path) -> None:
    assert load(tmp_path, 'profile = "rpi-5"\n').profile_name == "rpi-5"
    assert load(tmp_path, 'profile = "rpi-5"\n', environ={"EDGESWARM_PROFILE": "default"}).profile_name == "default"
    both = {"EDGESWARM_PROFILE": "default"}
    assert load(tmp_path, 'profile = "rpi-5"\n', environ=both, profile="rpi-zero-2w").profile_name == "rpi-zero-2w"


def test_every_fault_is_listed_with_its_key_its_place_and_what_was_found(tmp_path: Path) -> None:
    text = """
    [limits]
    memory_mb = "much"
    memroy_mb = 1
    [jails]
    min_tier = "Z"
    [nonsense]
    x = 1
    """
    said = faults(tmp_path, text, environ={VARIABLE: "-5"}, flags={"timing.deadline_ms_max": 0})
    file = f"[file {tmp_path / 'site.toml'}]"
    for key, what, where in (
        ("limits.memory_mb", "'much'", file),
        ("limits.memroy_mb", "memory_mb", file),
        ("jails.min_tier", "'Z'", file),
        ("nonsense", "unknown", file),
        (KEY, "-5", f"[environment {VARIABLE}]"),
        ("timing.deadline_ms_max", "0", "[flag]"),
    ):
        [line] = [line for line in said.splitlines() if line.strip().startswith(f"{key}:") or f" {key}: " in line]
        assert what in line and where in line, line


def test_unknown_profile_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    said = faults(tmp_path, profile="toaster")
    assert "toaster" in said and all(name in said for name in names())
    assert "expected text" in faults(tmp_path, "profile = 5\n")
    for name in ("../default", "/etc/passwd", "", "a" * 100, "default\n"):
        with pytest.raises(ConfigError):
            config.load(profile=name or " ", state=tmp_path, environ={})


def test_settings_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: not there"):
        config.load(file=tmp_path / "none.toml", state=tmp_path, environ={})
    with pytest.raises(ConfigError, match=f"settings file {tmp_path}: Is a directory"):
        config.load(file=tmp_path, state=tmp_path, environ={})
    assert "site.toml: " in faults(tmp_path, "limits = [")
    assert f"at most {CONFIG_BYTES_MAX} bytes" in faults(tmp_path, "#" * (CONFIG_BYTES_MAX + 1))
    (tmp_path / "latin.toml").write_bytes(b'device = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="latin.toml: 'utf-8' codec"):
        config.load(file=tmp_path / "latin.toml", state=tmp_path, environ={})


def test_table_where_a_value_belongs_and_the_other_way_round(tmp_path: Path) -> None:
    assert "limits: " in faults(tmp_path, "limits = 5\n")
    assert "limits.memory_mb: " in faults(tmp_path, "[limits.memory_mb]\nx = 1\n")
    assert "jails.ring_kb" in faults(tmp_path, environ={"EDGESWARM_JAILS__RING_KB__X": "1"})
    assert "device: " in faults(tmp_path, "device = 5\n")
    assert "agents" in faults(tmp_path, 'agents = "x.af"\n')
    assert "device: " in faults(tmp_path, 'device = "../x"\n')


def test_environment_values_are_toml_where_they_can_be_and_text_where_not(tmp_path: Path) -> None:
    environ = {
        "EDGESWARM_LIMITS__CPU_CORES": "1.5",
        "EDGESWARM_DEVICE": "kitchen",
        "EDGESWARM_AGENTS": '["a.af", "b.af"]',
        "EDGESWARM_STATE": "/elsewhere",
        "EDGESWARM_TEST_DATA": "x",
        "PATH": "/bin",
    }
    found = load(tmp_path, environ=environ)
    assert (found.profile.limits.cpu_cores, found.device) == (1.5, "kitchen")
    assert found.place.agents == ("a.af", "b.af")
    assert found.state_dir == tmp_path / "state"


def test_misspelt_environment_variable_of_ours_is_a_fault_and_not_ignored(tmp_path: Path) -> None:
    assert "jail" in faults(tmp_path, environ={"EDGESWARM_JAIL__RING_KB": "512"})


def test_state_and_socket_lie_where_root_or_the_xdg_folders_say(tmp_path: Path) -> None:
    assert [str(path) for path in config.default_dirs({}, is_root=True)] == [
        "/etc/edgeswarm/edgeswarm.toml",
        "/var/lib/edgeswarm",
        "/run/edgeswarm",
    ]
    home = {"HOME": str(tmp_path)}
    assert config.default_dirs(home, is_root=False)[1:] == (
        tmp_path / ".local/state/edgeswarm",
        tmp_path / ".local/state/edgeswarm/run",
    )
    xdg = {**home, "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert [str(path) for path in config.default_dirs(xdg, is_root=False)] == [
        "/c/edgeswarm/edgeswarm.toml",
        "/s/edgeswarm",
        f"{tmp_path}/edgeswarm",
    ]
    gone = {**home, "XDG_RUNTIME_DIR": str(tmp_path / "gone")}
    assert config.default_dirs(gone, is_root=False)[2] == tmp_path / ".local/state/edgeswarm/run"


TOML = st.recursive(
    st.integers(-(2**40), 2**40) | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.sampled_from(["limits", "jails", "timing", "log", "metrics", "x"]), st.text("abcm_", max_size=9), TOML)
def test_no_setting_raises_anything_but_a_config_error(tmp_path_factory: Any, table: str, key: str, value: Any) -> None:
    try:
        config.load(state=Path("/tmp/x"), flags={f"{table}.{key}" if key else table: value}, environ={})
    except ConfigError as error:
        assert table in str(error)


def test_what_config_show_prints_reads_back_as_a_settings_file(tmp_path: Path) -> None:
    rows = shown(load(tmp_path, profile="x86-gateway"))
    text = "".join(f"{key} = {toml(row['value'])}\n" for key, row in rows.items() if key != "description")
    assert tomllib.loads(text)
    again = load(tmp_path, text, profile="x86-gateway")
    assert shown(again)["limits.memory_mb"]["value"] == rows["limits.memory_mb"]["value"]


def toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
