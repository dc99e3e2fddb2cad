"""The rosters that a device has verified, kept in DIR/swarm/rosters/: the current one, and those before it.

Older ones stay because a leader's certificate cites the version that it was elected under.  A roster is taken only when
it verifies and follows the current one (wire.roster); the file is on disk before the new version counts.
The root's key may change: rosters carry the proof (wire.root_change).  Each is verified against the root of its time;
from the first one on that is of a new root, no roster of the old one is taken.
Invariant: versions and roots only grow; every roster in the book was verified against the fleet's root.
"""

from __future__ import annotations

import time
from pathlib import Path

from edgeswarm.app.swarm.config import folder
from edgeswarm.drivers import keys
from edgeswarm.drivers.files import write_whole
from edgeswarm.errors import ConfigError, LocalError
from edgeswarm.limits import ROSTERS_KEPT_MAX
from edgeswarm.wire import cose, root_change
from edgeswarm.wire.roster import Roster, RosterError
from edgeswarm.wire.roster_change import verify_roots


class RosterBook:
    """rosters: verified, ascending, at least one.  directory: None keeps them in memory.

    root_public: on making it any root of the fleet that is trusted; from then on the one of the current roster.
    """

    def __init__(self, root_public: bytes, rosters: list[Roster], directory: Path | None = None) -> None:
        self.root_public = rosters[-1].newest_root(root_public)
        self._rosters = rosters
        self._directory = directory
        self._devices: dict[int, str] = {}
        self._older: dict[bytes, tuple[tuple[int, bytes], ...]] = {}
        self._remember()

    @classmethod
    def load(cls, state_dir: Path, *, fleet: str, cell: str) -> RosterBook:
        """Raises ConfigError where root key or rosters are missing or do not verify."""
        base = folder(state_dir)
        root = keys.read_pub(base / "root.pub")
        directory = base / "rosters"
        rosters: list[Roster] = []
        paths = sorted(directory.glob("*.cbor"), key=lambda path: int(path.stem) if path.stem.isdigit() else 0)
        roots: tuple[bytes, ...] | None = None
        for path in paths:
            previous = rosters[-1] if rosters and path.stem == str(rosters[-1].version + 1) else None  # else: a gap
            try:
                roots = roots if roots is not None else roots_of(Roster.decode(paths[-1].read_bytes()), root)
                data = path.read_bytes()
                public = roots[min(len(Roster.decode(data).roots), len(roots) - 1)]
                roster = Roster.open(data, root_public=public, previous=previous, fleet=fleet, cell=cell)
            except (RosterError, OSError) as error:
                raise ConfigError(f"{path}: {error}; take it from another device, or join again") from None
            rosters.append(roster)
        if not rosters:
            raise ConfigError(f"{directory}: no roster; `edgeswarm swarm init` or `edgeswarm join` writes the first")
        return cls(root, rosters, directory)

    @staticmethod
    def save_first(state_dir: Path, root_public: bytes, roster: Roster) -> None:
        """What a device needs of a fleet's trust before it starts for the first time."""
        base = folder(state_dir)
        write_whole(base / "root.pub", keys.pub_line(root_public, f"root of {roster.fleet}").encode(), mode=0o644)
        write_whole(base / "rosters" / f"{roster.version}.cbor", roster.data)

    @property
    def current(self) -> Roster:
        return self._rosters[-1]

    @property
    def first(self) -> Roster:
        return self._rosters[0]

    def offer(self, data: bytes) -> bool:
        """Take a roster that came from anywhere; True when it is new.  Raises RosterError."""
        if data == self.current.data:
            return False
        version = Roster.decode(data).version
        if version <= self.current.version:
            return False
        previous = self.current if version == self.current.version + 1 else None
        roster = Roster.open(
            data, root_public=self.root_public, previous=previous, fleet=self.current.fleet, cell=self.current.cell
        )
        verify_roots(roster, self.current)
        root_public = roster.newest_root(self.root_public)
        if self._directory is not None:
            try:
                write_whole(self._directory / f"{version}.cbor", data)
            except OSError as error:
                raise LocalError(f"roster {version}: cannot be kept: {error}") from None
        self._rosters.append(roster)
        self.root_public = root_public
        for old in self._rosters[1:-ROSTERS_KEPT_MAX]:  # the first stays: every copy of the state begins with it
            if self._directory is not None:
                (self._directory / f"{old.version}.cbor").unlink(missing_ok=True)
        self._rosters[1:-ROSTERS_KEPT_MAX] = []
        self._remember()
        return True

    def of(self, version: int) -> Roster:
        """The roster to judge a certificate by that cites `version`: that one, or the newest for its own judgement."""
        return next((roster for roster in self._rosters if roster.version == version), self.current)

    def lookup(self, device: str) -> bytes | None:
        """The public key of `device` now."""
        return self.current.lookup(device)

    def check(self, public: bytes, signed: bytes, signature: bytes) -> bool:
        """Whether the signature holds for the device whose key is `public` now: cose.Verify.

        By that key, or by the one before it while its certificate lasts: what was signed before the device changed its
        key is still on its way, or retained.
        """
        if cose.check(public, signed, signature):
            return True
        before = self._older.get(public, ())[-1:]
        now_s = time.time()
        return any(until_s >= now_s and cose.check(old, signed, signature) for until_s, old in before)

    def check_ever(self, public: bytes, signed: bytes, signature: bytes) -> bool:
        """The same by any key that the device has had, for what is kept for long."""
        olds = [old for _, old in self._older.get(public, ())]
        return any(cose.check(each, signed, signature) for each in (public, *olds))

    def device_of(self, number: int) -> str | None:
        return self._devices.get(number)

    def number_of(self, device: str) -> int | None:
        member = self.current.member(device)
        return None if member is None else member.entry.number

    def public_of(self, number: int) -> bytes | None:
        device = self._devices.get(number)
        return None if device is None else self.lookup(device)

    def _remember(self) -> None:
        self._devices = {member.entry.number: member.entry.device for member in self.current.members}
        self._older = {
            member.public: tuple((key.certificate.not_after_s, key.certificate.public) for key in member.keys[:-1])
            for member in self.current.members
            if len(member.keys) > 1
        }


def roots_of(newest: Roster, root_public: bytes) -> tuple[bytes, ...]:
    """The fleet's roots, oldest first, for who trusts one of them: a roster that carries n changes is of roots[n].

    newest: may be unverified; its changes are verified here.  Raises RosterError.
    """
    newest.newest_root(root_public)
    return root_change.publics_of(root_change.open_row(newest.roots, fleet=newest.fleet)) or (root_public,)
