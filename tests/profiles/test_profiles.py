"""Every shipped profile is loaded; a wrong one is refused with every fault and its key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from edgeswarm import schema
from edgeswarm.assets import asset
from edgeswarm.drivers import profiles
from edgeswarm.errors import ConfigError

SHIPPED = ["default", "jetson-orin-nano", "rpi-5", "rpi-zero-2w", "x86-gateway"]


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.toml").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "default", asset("profiles", "default.toml").read_text())
    return tmp_path


def test_the_shipped_profiles_are_the_ones_promised() -> None:
    assert profiles.names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_loads(name: str) -> None:
    profile = profiles.load(name)
    assert profile.description
    assert profile.limits.jails_max <= profile.limits.agents_max
    assert profile.limits.jails_max * profile.limits.agents_per_jail >= profile.limits.agents_max
    assert profile.delegates.order[-1] == "wasm", "wasm always works, so it stands last"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_says_only_what_differs(name: str) -> None:
    """A key that repeats the default is noise, and would hide a later change of the default."""
    if name == profiles.BASE:
        return
    base = profiles.load_tree(profiles.BASE)
    own = tomllib.loads(asset("profiles", f"{name}.toml").read_text())
    assert own.pop("inherits") == profiles.BASE
    same = [
        f"{table}.{key}"
        for table, keys in own.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
        if base[table][key] == value
    ]
    assert same == []


@pytest.mark.parametrize("name", SHIPPED)
def test_policies_that_a_profile_names_exist(name: str) -> None:
    policies = {path.stem for path in (asset("sandbox") / "policies").glob("*.toml")}
    assert set(profiles.load(name).jails.policies) <= policies


def leaves(tree: dict[str, Any], at: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{at}{key}.")
        elif at:
            yield at + key


def test_default_names_every_key() -> None:
    tree = tomllib.loads(asset("profiles", "default.toml").read_text())
    assert set(tree) == {field.name for field in fields(profiles.Profile)}
    rows = {row.path for row in schema.describe(profiles.Profile) if "." in row.path}
    paths = {path for path in rows if not any(other.startswith(f"{path}.") for other in rows)}
    assert set(leaves(tree)) == paths


def test_every_key_is_described() -> None:
    rows = [row for row in schema.describe(profiles.Profile) if "." in row.path]
    assert [row.path for row in rows if not row.text] == []


def test_a_profile_takes_over_what_it_does_not_say(folder: Path) -> None:
    write(folder, "mine", 'inherits = "default"\n[limits]\nmemory_mb = 77\n[jails]\npolicies = ["own"]\n')
    mine, base = profiles.load("mine", folder), profiles.load("default", folder)
    assert mine.limits.memory_mb == 77
    assert mine.limits.agents_max == base.limits.agents_max
    assert mine.jails.policies == ("own",)
    assert mine.timing == base.timing


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="one of default, jetson-orin-nano, .*x86-gateway, found 'toaster'"):
        profiles.load("toaster")


@pytest.mark.parametrize("name", ["../default", "/etc/passwd", "", "default.toml", "rpi-5\n"])
def test_a_name_is_not_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        profiles.load(name)


def test_a_missing_parent_is_named(folder: Path) -> None:
    write(folder, "mine", 'inherits = "nobody"\n')
    with pytest.raises(ConfigError, match="found 'nobody', which profile mine inherits"):
        profiles.load("mine", folder)


def test_a_circle_is_refused_with_its_path(folder: Path) -> None:
    write(folder, "one", 'inherits = "other"\n')
    write(folder, "other", 'inherits = "one"\n')
    with pytest.raises(ConfigError, match="one -> other -> one"):
        profiles.load("one", folder)


def test_every_fault_is_listed_with_its_key(folder: Path) -> None:
    text = 'inherits = "default"\n[limits]\nmemory_mb = -1\nmemry = 3\n[jails]\nmin_tier = "D"\n[log]\nlevel = 7\n'
    write(folder, "mine", text)
    with pytest.raises(ConfigError) as caught:
        profiles.load("mine", folder)
    for part in ("profile mine", "limits.memory_mb", "limits.memry", "jails.min_tier", "log.level"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("limits = ", "mine.toml"), ("inherits = 3", "inherits"), ("\xff", "mine.toml"), ("[limits", "mine.toml")],
)
def test_a_broken_file_is_named(folder: Path, text: str, expected: str) -> None:
    (folder / "mine.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=expected):
        profiles.load("mine", folder)
