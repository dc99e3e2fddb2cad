"""A fleet's keys and its controller's state in one encrypted file, and back.

What is in it: every file of the FLEET directory but the broker's log and retained messages, the index (made anew) and
artefacts (devices and voters keep them), and a consistent copy of the controller's raft.db (sqlite3's backup).
A tar, sealed under a passphrase (drivers/pki/sealed.py: Argon2id, XSalsa20-Poly1305).

Coming back: a voter must never vote with an older log than it promised from (docs/recovery.md).  Where other voters
live, the controller comes back without its log: it follows as a learner, and does all of its work through them.  Where
it was the only voter, its log is put back and the cell goes on from there in a term 1,000 higher, as after a lost
quorum: what was committed after the backup is lost, and the audit says so.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.app.swarm import config as cell_config
from edgeswarm.app.swarm.recovery import recover_alone
from edgeswarm.app.swarm.rosters import RosterBook
from edgeswarm.drivers.files import write_whole
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.drivers.pki import sealed
from edgeswarm.errors import CodecError, LimitError, LocalError
from edgeswarm.limits import BACKUP_BYTES_MAX, BACKUP_FILES_MAX

LEFT_OUT = frozenset({"artefacts", "cache", "run", "fleet.db", "mosquitto.db", "mosquitto.log", "mosquitto.pid"})
LEFT_OUT_SUFFIXES = ("-wal", "-shm", ".new", ".lock")
RAFT = PurePosixPath("controller/swarm/raft.db")
BUSY_TRIES = 20  # a quarter of a second each


def backup(folder: FleetFolder, passphrase: str, *, raft: bytes = b"", cost: sealed.Cost = sealed.MODERATE) -> bytes:
    """The sealed bytes.  raft: the controller's log as it gave it (`backup.log`), where it runs and so holds the file.

    Raises LimitError, LocalError, OSError.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        count = 0
        for path in sorted(folder.path.rglob("*")):
            name = PurePosixPath(path.relative_to(folder.path).as_posix())
            if not path.is_file() or path.is_symlink() or _is_left_out(name):
                continue
            if raft and name == RAFT:
                data = raft
            else:
                data = _database(path) if path.suffix == ".db" else path.read_bytes()
            info = tarfile.TarInfo(str(name))
            info.size, info.mode = len(data), path.stat().st_mode & 0o777
            tar.addfile(info, io.BytesIO(data))
            count += 1
            if count > BACKUP_FILES_MAX or buffer.tell() > BACKUP_BYTES_MAX:
                raise LimitError(f"backup: at most {BACKUP_FILES_MAX} files and {BACKUP_BYTES_MAX} bytes")
    return sealed.seal(buffer.getvalue(), passphrase, cost=cost)


def restore(path: Path, data: bytes, passphrase: str, *, who: str = "backup") -> FleetFolder:
    """The fleet in `data`, in the folder `path`, which must not exist or be empty; its log still to be settled.

    Raises WrongPassphraseError, ConfigError, CodecError, LocalError.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise LocalError(f"{path}: expected no folder or an empty one")
    plain = sealed.unseal(data, passphrase, who=who)
    draft = path.parent / f".{path.name}.{os.getpid()}.new"
    draft.mkdir(parents=True, mode=0o700)
    try:
        _unpack(plain, draft, who)
        _ = FleetFolder(draft).config
        if path.exists():
            path.rmdir()
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return FleetFolder(path)


def settle(folder: FleetFolder, operator: SigningKey, *, reason: str, name: str) -> str:
    """Make the restored controller safe to start: "alone" where it was the only voter, else "learner".

    Raises LocalError, ConfigError, StoreError.
    """
    state = folder.controller
    cell = cell_config.load(state)
    book = RosterBook.load(state, fleet=cell.fleet, cell=cell.cell)
    number = book.number_of(cell.device)
    base = cell_config.folder(state)
    if book.current.voters() == (number,) and (base / "raft.db").exists():
        recover_alone(state, operator, reason=reason, operator=name, from_backup=True)
        kept = "alone"
    else:
        (base / "raft.db").unlink(missing_ok=True)
        write_whole(base / "raft.db.lock", b"made\n")  # it remembers that there was a log: this device does not vote
        kept = "learner"
    # what it signed after the backup is higher than the counter in it: peers would take the rest for replays
    boot = int((base / "boot").read_text()) if (base / "boot").exists() else 0
    write_whole(base / "boot", f"{boot + 1_000_000}\n".encode())
    return kept


def _is_left_out(name: PurePosixPath) -> bool:
    return bool(LEFT_OUT & set(name.parts)) or name.name.endswith(LEFT_OUT_SUFFIXES)


def _database(path: Path) -> bytes:
    """A consistent copy of a database that may be written to meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        source = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        target = sqlite3.connect(copy)
        try:
            source.backup(target, progress=_Patience(path).look)
        finally:
            source.close()
            target.close()
        return copy.read_bytes()


class _Patience:
    """Ends a copy that waits for a database which somebody else holds for themselves."""

    def __init__(self, path: Path) -> None:
        self._path, self._tries = path, 0

    def look(self, status: int, remaining: int, total: int) -> None:
        """As sqlite3 calls it: after each step, and each time that there was no getting in."""
        self._tries += status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        if self._tries > BUSY_TRIES:
            raise LocalError(f"{self._path}: another process holds it; does the controller run?")


def _unpack(plain: bytes, draft: Path, who: str) -> None:
    try:
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:gz") as tar:
            total = 0
            for count, info in enumerate(tar):
                name = PurePosixPath(info.name)
                total += info.size
                if count >= BACKUP_FILES_MAX or total > 8 * BACKUP_BYTES_MAX:
                    raise LimitError(f"{who}: more than a backup holds")
                if not info.isfile() or name.is_absolute() or ".." in name.parts:
                    raise CodecError(f"expected plain files inside the folder, found {info.name!r:.100}", who=who)
                stream = tar.extractfile(info)
                assert stream is not None
                write_whole(draft / name, stream.read(), mode=0o600 if info.mode & 0o077 == 0 else 0o644)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CodecError(f"not a backup of a fleet: {error}", who=who) from None
