"""A policy of the operator's own, from the file in the state directory to an answer out of its jail."""

from __future__ import annotations

import os
from pathlib import Path

import jail_kernels as k
import pytest

from edgeswarm.drivers.jail_policy import OWN_POLICIES, load_policies
from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.errors import ConfigError

pytestmark = pytest.mark.e2e


def write_own(state: Path, **changes: str) -> None:
    text = (k.SANDBOX / "policies" / "strict.toml").read_text()
    for old, new in {'name = "strict"': 'name = "mine"', **changes}.items():
        assert old in text
        text = text.replace(old, new, 1)
    (state / OWN_POLICIES).mkdir()
    (state / OWN_POLICIES / "mine.toml").write_text(text)


def test_an_agent_runs_under_a_policy_of_the_operators_own(tmp_path: Path) -> None:
    pytest.importorskip("pyseccomp")
    write_own(tmp_path, **{"data_mb = 64": "data_mb = 96"})
    with SyncHost(policy_dir=k.SANDBOX, cache_dir=tmp_path / "cache", mac_key=k.MAC_KEY) as host:
        code = host.compile(k.assemble(k.MOODY))
        with host.spawn([k.moody_spec(code, weight=3.0)], policy="mine") as jail:
            assert k.values(jail.call(0, k.row(k.ADD, 2.0)))[0] == 6.0
            assert "LoadFilter(2)" in jail.ready["performed"]


def test_a_policy_with_a_fault_keeps_the_host_from_starting_and_is_named(tmp_path: Path) -> None:
    write_own(tmp_path, **{'tier_min = "C"': 'tier_min = "none"'})
    with pytest.raises(ConfigError, match=r"mine.toml.*tier_min"):
        SyncHost(policy_dir=k.SANDBOX, cache_dir=tmp_path / "cache", mac_key=k.MAC_KEY)


@pytest.mark.parametrize("harm", ["group may write", "anybody may write to the folder", "a link", "a pipe"])
def test_a_policy_that_somebody_else_could_have_written_is_not_taken(tmp_path: Path, harm: str) -> None:
    write_own(tmp_path)
    folder = tmp_path / OWN_POLICIES
    file = folder / "mine.toml"
    match harm:
        case "group may write":
            file.chmod(0o664)
        case "anybody may write to the folder":
            folder.chmod(0o777)
        case "a link":
            file.rename(tmp_path / "elsewhere.toml")
            file.symlink_to(tmp_path / "elsewhere.toml")
        case "a pipe":
            file.unlink()
            os.mkfifo(file, 0o600)
    with pytest.raises(ConfigError, match=r"sandbox\.d.*: (nobody but you and root may write|a file expected)"):
        load_policies(k.SANDBOX, own=folder)
