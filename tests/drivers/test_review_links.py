"""Root writes where a service's user owns the folder: what that user laid there leads root nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgeswarm.app.join import folder
from edgeswarm.drivers.broker_fleet import Files, make_folders
from edgeswarm.drivers.files import write_whole

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def test_link_in_the_place_of_the_draft_is_not_followed(tmp_path: Path) -> None:
    """`<name>.new` is known beforehand: whoever may write in that folder could have laid it."""
    other = tmp_path / "shadow"
    other.write_text("root's")
    where = tmp_path / "state"
    where.mkdir()
    (where / "boot.new").symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        write_whole(where / "boot", b"1\n")
    assert other.read_text() == "root's"
    (where / "boot.new").unlink()
    write_whole(where / "boot", b"1\n")
    assert (where / "boot").read_bytes() == b"1\n"


@root_only
def test_brokers_user_is_given_no_file_that_it_links_to(tmp_path: Path) -> None:
    """data/ is mosquitto's: it could lay a link to a file of root's where its plugin's state is expected."""
    other = tmp_path / "shadow"
    other.write_text("root's")
    files = Files(tmp_path / "fleet" / "broker")
    make_folders(files, user="nobody")
    assert files.plugin_state.stat().st_uid == files.data.stat().st_uid != 0
    files.plugin_state.unlink()
    for target in (other, tmp_path / "fleet" / "issuer.key"):
        files.plugin_state.symlink_to(target)
        make_folders(files, user="nobody")
        files.plugin_state.unlink()
    assert other.stat().st_uid == 0 and other.read_text() == "root's"
    assert not (tmp_path / "fleet" / "issuer.key").exists()


@root_only
def test_joining_as_root_gives_a_service_s_user_what_is_its_own_and_nothing_else(tmp_path: Path) -> None:
    """The state directory is that user's: it may lay links there, and exchange folders for them at any moment."""
    other = tmp_path / "root"
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "shadow").write_text("root's")
    state = tmp_path / "state"
    for name in ("keys", "swarm/rosters"):
        (state / name).mkdir(parents=True)
    (state / "keys" / "device.key").write_text("ours")
    (state / "swarm" / "rosters" / "1.cbor").write_text("ours")
    (state / "keys" / "to-file").symlink_to(other / "deep" / "shadow")
    (state / "keys" / "to-folder").symlink_to(other / "deep")
    (state / "trust.d").symlink_to(other / "deep")
    os.link(other / "deep" / "shadow", state / "keys" / "hard")
    os.mkfifo(state / "keys" / "pipe")
    os.chown(state, 65_534, 65_534)
    folder.give(state)
    for path in ("keys", "keys/device.key", "swarm", "swarm/rosters", "swarm/rosters/1.cbor"):
        assert (state / path).stat().st_uid == 65_534, path
    for kept in (other, other / "deep", other / "deep" / "shadow"):
        assert kept.stat().st_uid == 0, kept
    (state / "swarm.lock").symlink_to(other / "nologin")
    with pytest.raises(OSError, match="symbolic"), folder.locked(state):
        pass
    assert not (other / "nologin").exists()


def test_folders_that_are_made_on_the_way_are_private_too(tmp_path: Path) -> None:
    """A fleet's folder is open to pass through for mosquitto's user: what is in the controller's below it is not."""
    write_whole(tmp_path / "fleet" / "controller" / "keys" / "device.key", b"secret")
    made = [tmp_path / "fleet", tmp_path / "fleet" / "controller", tmp_path / "fleet" / "controller" / "keys"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o700] * 3
