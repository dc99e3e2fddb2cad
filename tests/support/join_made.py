"""Memberships as an issuer would give them, out of keys made here; and power cuts at every step on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeswarm.drivers import keys
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.drivers.pki import x509
from edgeswarm.wire.certificate import Certificate, Signatory, sign_certificate
from edgeswarm.wire.dev_fleet import DevFleet, make_dev_fleet
from edgeswarm.wire.join import Inventory, Membership
from edgeswarm.wire.roster_change import new_entry, next_roster
from edgeswarm.wire.roster_form import Entry

NOW_S = int(time.time())
INVENTORY = Inventory("rpi-5", "A", "aarch64", "edgeswarm 0.1.0", 8 << 30, ("hailo",), ("line=3",))


def a_fleet(name: str = "plant") -> DevFleet:
    return make_dev_fleet(1, entropy=name.encode(), now_s=NOW_S - 600, fleet=name, cell="main", names=["controller"])


def a_key(state: Path) -> SigningKey:
    return keys.load_or_make(state / "keys" / "device.key")[0]


_made: dict[tuple[bytes, str, bytes, int], Membership] = {}


def membership(made: DevFleet, device: str, key: SigningKey, *, serial: int = 1) -> Membership:
    """Of a device that joins `made` as its second member; serial: of its newest certificate."""
    name = (made.root_public, device, key.public, serial)
    if name not in _made:
        _made[name] = _membership(made, device, key, serial)
    return _made[name]


def _membership(made: DevFleet, device: str, key: SigningKey, serial: int) -> Membership:
    roster = made.roster
    issuer: Signatory = made.issuer
    for number in range(1, serial + 1):
        entries = [new_entry(roster, Entry(device, 2, "worker", (), 1), issuer)] if number == 1 else []
        certificate = Certificate(
            made.fleet, device, key.public, number, NOW_S - 300, NOW_S - 300 + 30 * 86_400, ("worker",)
        )
        roster = next_roster(
            roster, created_s=NOW_S, by=issuer, entries=entries,
            certificates={device: sign_certificate(certificate, issuer)},
        )  # fmt: skip
    root = x509.make_root(made.root_seed, made.fleet, NOW_S - 3600)
    issuer_pem = x509.make_issuer(made.root_seed, issuer.public, made.fleet, NOW_S - 3600)
    leaf = x509.make_device(
        made.issuer_seed, issuer_pem, device, key.public, NOW_S - 300, NOW_S - 300 + 30 * 86_400 + serial
    )
    return Membership(
        device=device, number=2, role="worker", cell=made.cell, controller="controller", first=made.roster.data,
        roster=roster.data, root=made.root_public, chain=x509.chain(leaf, issuer_pem), ca=root,
        brokers=("mqtts://localhost:8883",), timing="lan", encrypt=False, content_keys=(),
        publishers=(made.operator.public,), version=3, now_s=NOW_S,
    )  # fmt: skip


class PowerCut(BaseException):
    """The process is gone here."""


@contextmanager
def power_cut(at: int) -> Iterator[list[str]]:
    """What changes the disk is counted; the process ends before step `at`.  Yields the names of the steps."""
    steps: list[str] = []
    kept = {name: getattr(os, name) for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "remove", "fsync")}

    def counted(name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            if len(steps) >= at:
                raise PowerCut(name)
            steps.append(name)
            return None if name == "fsync" else kept[name](*args, **named)  # a hundred thousand would take a minute

        return call

    for name in kept:
        setattr(os, name, counted(name))
    try:
        yield steps
    finally:
        for name, function in kept.items():
            setattr(os, name, function)
