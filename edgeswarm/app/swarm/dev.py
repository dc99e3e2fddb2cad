"""`edgeswarm swarm init --dev N`: a throw-away fleet on disk, one state directory a device.  Not for production.

Root, issuer and operator keys lie beside the devices' in DIR/fleet: whoever can read that folder is the fleet.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgeswarm.app.swarm import config
from edgeswarm.app.swarm.connect import save_content_key
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.drivers import keys
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import LocalError
from edgeswarm.wire.dev_fleet import DevFleet, make_dev_fleet


def init_dev(
    directory: Path,
    count: int,
    *,
    brokers: tuple[str, ...],
    timing: config.TimingName = "lan",
    voters: int = 0,
    fleet: str = "dev",
    cell: str = "cell",
    encrypt: bool = False,
) -> tuple[DevFleet, dict[str, Path]]:
    """Write a fleet of `count` devices below `directory`; device id -> its state directory.

    Raises LocalError where the directory holds a fleet already.
    """
    if (directory / "fleet").exists():
        raise LocalError(f"{directory}: there is a fleet already; take another directory, or remove it")
    made = make_dev_fleet(count, entropy=os.urandom(32), now_s=int(time.time()), fleet=fleet, cell=cell, voters=voters)
    publisher, _ = keys.load_or_make(directory / "fleet" / "publisher.key")
    states: dict[str, Path] = {}
    content_key = os.urandom(32)
    for device, seed in made.device_seeds.items():
        state = directory / device
        _write_seed(state / "keys" / "device.key", seed)
        config.save(state, config.CellConfig(fleet, cell, device, brokers, timing, encrypt))
        RosterBook.save_first(state, made.root_public, made.roster)
        if encrypt:
            save_content_key(config.folder(state), 1, content_key)
        keys.trust(state / "trust.d", publisher.public, f"publisher of {fleet}")
        states[device] = state
    for name, seed in (("root", made.root_seed), ("issuer", made.issuer_seed), ("operator", made.operator_seed)):
        _write_seed(directory / "fleet" / f"{name}.key", seed)
    write_whole(directory / "fleet" / "root.pub", keys.pub_line(made.root_public, fleet).encode(), mode=0o644)
    write_whole(directory / "fleet" / "roster.cbor", made.roster.data, mode=0o644)
    return made, states


def _write_seed(path: Path, seed: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, seed.hex().encode() + b"\n")
