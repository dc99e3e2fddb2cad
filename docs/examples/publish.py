"""What the examples' build scripts share: the publisher's key, and files written to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeswarm.app import config
from edgeswarm.drivers import keys


def publisher(state: Path | None = None) -> keys.SigningKey:
    """This user's publisher key, as `edgeswarm agent build` has it: made on first use, and then trusted on this device.

    state: the state directory (`--state`); None: this user's.
    """
    folder = config.load(state=state).state_dir
    key, made = keys.load_or_make(folder / "keys" / "publisher.key")
    if made:
        keys.trust(folder / "trust.d", key.public, "made by this user on this device")
        print(f"made publisher key {folder / 'keys' / 'publisher.key'} ({key.id}), trusted here")
    return key


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        print(f"{folder / name}: {len(data):,} bytes")
