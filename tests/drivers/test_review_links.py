"""Root writes where a service's user owns the folder: what that user laid there leads root nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgeswarm.drivers.broker_fleet import Files, make_folders
from edgeswarm.drivers.files import write_whole

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


def test_link_in_the_place_of_the_draft_is_not_followed(tmp_path: Path) -> None:
    """`<name>.new` is known beforehand: whoever may write in that folder could have laid it."""
    other = tmp_path / "shadow"
    other.write_text("root's")
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "boot.new").symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        write_whole(folder / "boot", b"1\n")
    assert other.read_text() == "root's"
    (folder / "boot.new").unlink()
    write_whole(folder / "boot", b"1\n")
    assert (folder / "boot").read_bytes() == b"1\n"


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


def test_folders_that_are_made_on_the_way_are_private_too(tmp_path: Path) -> None:
    """A fleet's folder is open to pass through for mosquitto's user: what is in the controller's below it is not."""
    write_whole(tmp_path / "fleet" / "controller" / "keys" / "device.key", b"secret")
    made = [tmp_path / "fleet", tmp_path / "fleet" / "controller", tmp_path / "fleet" / "controller" / "keys"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o700] * 3
