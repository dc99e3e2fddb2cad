"""DIR/swarm, written when a device joins a fleet and taken away when it leaves: whole or as it was, at every power cut.

A new cell is written beside the old one, to DIR/swarm.joining/swarm, `cell.toml` last; then the old one is moved to
DIR/swarm.left, and the new one to DIR/swarm.  `settle` ends what was cut off: between the two moves it goes forward,
before them back.  The same cell again (a new certificate) replaces single files, each whole, in an order in which any
part of them works: what a voter has promised is in that folder and stays.
Nothing of a certificate's dates or trust is judged here but `check`: what came fits together.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgeswarm.app.join import clock
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.config import CellConfig
from edgeswarm.app.swarm.rosters import RosterBook, roots_of
from edgeswarm.drivers import keys
from edgeswarm.drivers.files import sync_directory, write_whole
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.errors import ConfigError, EdgeSwarmError, LocalError
from edgeswarm.wire.join import JoinError, Membership
from edgeswarm.wire.roster import Roster, RosterError

DRAFT, LEFT, GONE = "swarm.joining", "swarm.left", "swarm.gone"
JOIN_BROKERS = "join-brokers"  # one URL a line, as app/swarm/rotation_files.py reads it
BOOT, ORPHANS, PUBLISHERS, LOCK = "swarm.boot", "swarm.orphans", "publishers", "swarm.lock"
KEPT: Final = ("agents", "audit", "cache", "edgeswarm.db", "edgeswarm.db-shm", "edgeswarm.db-wal", "keys", "log")
"""What a device has beside its cell: a factory reset takes it too."""


# --- what came --------------------------------------------------------------------------------------------------------


def check(found: Membership, key: SigningKey, fleet: str) -> Roster:
    """The roster of a membership, verified, once everything in it fits to this device.  Raises JoinError."""
    from edgeswarm.drivers.pki import x509

    try:
        roster = Roster.open(found.roster, root_public=found.root, fleet=fleet, cell=found.cell)
        row = roots_of(roster, found.root)
        if row[-1] != found.root:
            raise JoinError("its root is not the newest of its roster")
        first = Roster.open(found.first, root_public=row[0], fleet=fleet, cell=found.cell)
        if first.version > roster.version:
            raise JoinError(f"its first roster is version {first.version}, the newest {roster.version}")
        if roster.lookup(found.device) != key.public:
            raise JoinError(f"its roster does not have this device's key for {found.device}")
        member = roster.member(found.device)
        if member is None or (member.entry.number, member.entry.role) != (found.number, found.role):
            raise JoinError(f"its roster has {found.device} in another role than the answer")
        leaf, *rest = x509.split(found.chain)
        if x509.public_of(leaf) != key.public or x509.name_of(leaf) != found.device:
            raise JoinError("the certificate in it is another device's")
        if not any(x509.signed_by(root, found.root) for root in x509.split(found.ca)):
            raise JoinError("its roots are not of this fleet's root key")
        if not rest or not x509.signed_by(leaf, x509.public_of(rest[0])):
            raise JoinError("its certificate comes without the issuer's")
    except RosterError as error:
        raise JoinError(str(error)) from None
    except JoinError as error:
        raise JoinError(f"the issuer's answer: {error}") from None
    if found.encrypt and not found.content_keys:
        raise JoinError("the issuer's answer: the cell encrypts, and there is no key in it")
    return roster


# --- in ---------------------------------------------------------------------------------------------------------------


def is_same(state_dir: Path, fleet: str, found: Membership) -> bool:
    """Whether this device is in that cell, of that root and by that id, already, and its files of it read."""
    try:
        config = cell_config.load(state_dir)
        book = RosterBook.load(state_dir, fleet=config.fleet, cell=config.cell)
        row = roots_of(Roster.decode(found.roster), found.root)  # the root may have changed since
    except EdgeSwarmError:
        return False
    mine = (config.fleet, config.cell, config.device)
    return mine == (fleet, found.cell, found.device) and book.root_public in row


def write(state_dir: Path, found: Membership, key: SigningKey, fleet: str, join_brokers: tuple[str, ...] = ()) -> None:
    """Make this device a member.  Afterwards it is, or (cut off) it is what it was.  Raises OSError.

    join_brokers: where newcomers ask, and this device once its certificate has run out.
    """
    settle(state_dir)
    clock.keep(state_dir, found.now_s)
    if is_same(state_dir, fleet, found):
        _files(state_dir, found, key, fleet, join_brokers, trust_in=state_dir)
        give(state_dir)
        return
    draft = state_dir / DRAFT
    base = cell_config.folder(draft)
    boot = max(_boot(cell_config.folder(state_dir) / "boot"), _boot(state_dir / BOOT))
    if boot:
        write_whole(base / "boot", f"{boot}\n".encode())
    _files(draft, found, key, fleet, join_brokers, trust_in=state_dir)
    give(state_dir)
    _switch(state_dir)
    settle(state_dir)


def _files(
    target: Path, found: Membership, key: SigningKey, fleet: str, join_brokers: tuple[str, ...], *, trust_in: Path
) -> None:
    """What a member has, below `target`; cell.toml last.  trust_in: the state directory whose trust.d is meant."""
    from edgeswarm.app.swarm.connect import CONTENT_KEYS  # and MQTT with it: a daemon in no cell needs none
    from edgeswarm.drivers.pki import x509

    base = cell_config.folder(target)
    name = f"root of {fleet}"
    for data in (found.first, found.roster):  # before root.pub: they prove a new root by the one of before
        path = base / "rosters" / f"{Roster.decode(data).version}.cbor"
        if not path.exists():
            write_whole(path, data)
    write_whole(base / "root.pub", keys.pub_line(found.root, name).encode(), mode=0o644)
    write_whole(base / "ca.crt", found.ca, mode=0o644)
    write_whole(base / "device.pem", x509.pkcs8_pem(key.seed))
    write_whole(base / "device.crt", found.chain, mode=0o644)
    if found.content_keys:
        lines = "".join(f"{epoch} {secret.hex()}\n" for epoch, secret in found.content_keys)
        write_whole(base / CONTENT_KEYS, lines.encode())
    if join_brokers:
        write_whole(base / JOIN_BROKERS, "".join(f"{url}\n" for url in join_brokers).encode())
    trust(base, found.publishers, fleet, trust_in)
    config = CellConfig(
        fleet,
        found.cell,
        found.device,
        found.brokers,
        "lan" if found.timing == "lan" else "default",
        found.encrypt,
        tls_ca="ca.crt",
        tls_cert="device.crt",
        tls_key="device.pem",
    )
    cell_config.save(target, config)


def give(state_dir: Path) -> None:
    """Where root joins for a service's user: what was written is the owner's of the state directory.

    That user may lay links there and exchange folders meanwhile, so it goes from descriptor to descriptor, along no
    link, and gives no file that has another name.
    """
    owner = state_dir.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    top = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in ("keys", "swarm", DRAFT, "trust.d", clock.FILE, LOCK, BOOT, ORPHANS):
            _give(name, top, owner)
    finally:
        os.close(top)


def _give(name: str, parent: int, owner: os.stat_result, depth: int = 8) -> None:
    """parent: a descriptor.  depth: of folders, more than there are in a state directory."""
    try:
        entry = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError:  # it is not there, or a link, or a socket
        return
    try:
        found = os.fstat(entry)
        if stat.S_ISDIR(found.st_mode) and depth:
            for one in os.listdir(entry):
                _give(one, entry, owner, depth - 1)
        elif not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            return
        if found.st_uid == 0:
            os.fchown(entry, owner.st_uid, owner.st_gid)
    finally:
        os.close(entry)


def trust(base: Path, publishers: tuple[bytes, ...], fleet: str, state_dir: Path) -> None:
    """Trust the fleet's publishers; those that the owner of this device did not trust before are noted in `base`.

    base: DIR/swarm, or what becomes it.  Raises OSError, ConfigError.
    """
    trust_d = state_dir / "trust.d"
    ours = {*_publishers(base), *_publishers(cell_config.folder(state_dir))}
    trusted = keys.trusted(trust_d)
    fresh = {keys.key_id(public): public for public in publishers}
    noted = sorted({*_publishers(base), *(name for name in fresh if name not in trusted or name in ours)})
    if noted:
        write_whole(base / PUBLISHERS, "\n".join(noted).encode())
    for name, public in fresh.items():
        if name not in trusted:
            line = keys.pub_line(public, f"publisher of {fleet}")
            write_whole(trust_d / f"{name}.pub", line.encode(), mode=0o644)


def _publishers(base: Path) -> list[str]:
    """Publishers that are trusted because a fleet said so.  base: DIR/swarm, or what becomes or was it."""
    try:
        return [name for name in (base / PUBLISHERS).read_text().split() if "/" not in name]
    except FileNotFoundError:
        return []


def _boot(path: Path) -> int:
    """How often this device was in a cell: it counts on, so that what it signed before cannot be said again."""
    try:
        return int(path.read_bytes()[:20])
    except (OSError, ValueError):
        return 0


def _switch(state_dir: Path) -> None:
    """The draft takes the place of what is there."""
    now, left = cell_config.folder(state_dir), state_dir / LEFT
    if now.exists():
        now.rename(left)
    cell_config.folder(state_dir / DRAFT).rename(now)
    sync_directory(state_dir)


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """One at a time joins, leaves or settles here.  Raises LocalError where somebody else does, OSError."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(f"{state_dir}: another `edgeswarm join` or `leave` is at work here") from None
        yield
    finally:
        os.close(descriptor)


def settle_at_start(state_dir: Path) -> bool:
    """`settle`, unless somebody is joining just now, or this user may not."""
    try:
        with locked(state_dir):
            return settle(state_dir)
    except (LocalError, OSError):
        return False


def settle(state_dir: Path) -> bool:
    """End what a power cut interrupted; True where that changed whether, or of which cell, this is a member."""
    now, left, draft = cell_config.folder(state_dir), state_dir / LEFT, state_dir / DRAFT
    changed = False
    if not now.exists():
        if (cell_config.folder(draft) / "cell.toml").exists():
            cell_config.folder(draft).rename(now)
            changed = True
        elif left.exists():
            left.rename(now)
            changed = True
        if changed:
            sync_directory(state_dir)
    for path in (left, draft, state_dir / GONE):
        if path.exists():
            _forget(state_dir, cell_config.folder(path) if path is draft else path)
            shutil.rmtree(path)
    return changed


# --- out --------------------------------------------------------------------------------------------------------------


def _forget(state_dir: Path, base: Path) -> None:
    """Before `base`, a cell's folder that is none any more, goes: keep how often this device started in it and which
    agents are to be removed, and trust its publishers no more."""
    boot = max(_boot(base / "boot"), _boot(state_dir / BOOT))
    if boot:
        write_whole(state_dir / BOOT, f"{boot}\n".encode())
    try:
        hosted = (base / "hosted").read_text().split()
    except FileNotFoundError:
        hosted = []
    hosted += [path.stem for path in (base / "rollouts").glob("*.journal")]
    if hosted:
        write_whole(state_dir / ORPHANS, " ".join(sorted({*hosted, *orphans(state_dir)})).encode())
    now = _publishers(cell_config.folder(state_dir))
    for name in _publishers(base):
        if name not in now:
            (state_dir / "trust.d" / f"{name}.pub").unlink(missing_ok=True)


def leave(state_dir: Path) -> bool:
    """Be a member no more; False where this device is none.  Raises OSError."""
    settle(state_dir)
    base, gone = cell_config.folder(state_dir), state_dir / GONE
    if not base.exists():
        return False
    base.rename(gone)
    sync_directory(state_dir)
    settle(state_dir)
    return True


def orphans(state_dir: Path) -> list[str]:
    """Agents of a cell that this device has left, which still lie here."""
    try:
        return (state_dir / ORPHANS).read_text().split()
    except FileNotFoundError:
        return []


def orphans_gone(state_dir: Path) -> None:
    (state_dir / ORPHANS).unlink(missing_ok=True)


def reset(state_dir: Path) -> list[str]:
    """Take away all that makes this device itself: membership, key, agents, log; what was taken.  Not the time floor.

    The key goes first: a device that was cut off here has lost its identity, which is what was wanted.
    """
    if not state_dir.is_dir():
        raise ConfigError(f"{state_dir}: no state directory")
    names = ["keys", *(name for name in KEPT if name != "keys"), "trust.d"]
    names += ["swarm", DRAFT, LEFT, GONE, BOOT, ORPHANS]
    taken = []
    for name in names:
        path = state_dir / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink()
        else:
            continue
        taken.append(name)
    sync_directory(state_dir)
    return taken
