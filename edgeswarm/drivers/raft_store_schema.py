"""The tables of a voter's database, their checksums, and how an older layout becomes the present one.

A row's CRC covers all that the row says, so that a row which is whole but belongs elsewhere is found too.
Layouts: 1 held the hard state in a table of its own.  2 holds it in row 0 of `log`, so that one statement, and thereby
one transaction, writes entries and hard state; row 0 also names the last entry and its CRC, so that a page of the log
that went back to an older state is noticed; and `audit` remembers recoveries.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import struct
import zlib
from pathlib import Path
from typing import Final

from edgeswarm.drivers.files import sync_directory
from edgeswarm.drivers.raft_store_wal import WalDamagedError, check_wal
from edgeswarm.errors import CodecError, LocalError, RemoteError
from edgeswarm.limits import RAFT_CHORE_FACTOR, RAFT_WAL_BYTES
from edgeswarm.wire.codec import dumps, loads
from edgeswarm.wire.raft import ConfState, HardState, conf_from_list, conf_to_list

SCHEMA_VERSION: Final = 2
APPLICATION_ID: Final = 0x45535246  # "ESRF": a database of another program is told apart
AUDIT: Final = """
CREATE TABLE audit (
  id INTEGER PRIMARY KEY, at_wall TEXT NOT NULL, operator TEXT NOT NULL, reason TEXT NOT NULL, what TEXT NOT NULL );
"""
SCHEMA: Final = f"""
CREATE TABLE log (
  idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, type INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL );
CREATE TABLE snapshot (
  id INTEGER PRIMARY KEY CHECK (id = 1), idx INTEGER NOT NULL, term INTEGER NOT NULL, base_idx INTEGER NOT NULL,
  base_term INTEGER NOT NULL, conf BLOB NOT NULL, data BLOB NOT NULL, sha256 BLOB NOT NULL );
CREATE TABLE meta ( key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL ) WITHOUT ROWID;
{AUDIT}"""


class StoreCorruptError(RemoteError):
    """A voter's database is damaged: it must not be used, since what is missing may have been promised to others."""

    def __init__(self, path: Path, found: str) -> None:
        cure = "move it away and let this device rejoin as a learner (docs/recovery.md)"
        super().__init__(f"raft database is damaged: {found}; {cure}", who=str(path))
        self.found = found


# --- rows -----------------------------------------------------------------------------------------------------------

_HEAD: Final = struct.Struct(">QQB")
_HARD: Final = struct.Struct(">QQQI")  # vote, commit, index of the last entry, its CRC
_HARD_1: Final = struct.Struct(">QQQ")
_SNAPSHOT: Final = struct.Struct(">QQQQ")


def entry_crc(index: int, term: int, kind: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_HEAD.pack(index, term, kind)))


def hard_row(hard: HardState, last_index: int, last_crc: int) -> tuple[int, int, int, bytes, int]:
    """Row 0 of `log`.  last_index, last_crc: of the last entry; where there is none, the base's index and 0."""
    data = _HARD.pack(hard.vote, hard.commit, last_index, last_crc)
    return 0, hard.term, 0, data, entry_crc(0, hard.term, 0, data)


def hard_data(data: bytes) -> tuple[int, int, int, int]:
    """(vote, commit, last_index, last_crc).  Raises struct.error."""
    vote, commit, last_index, last_crc = _HARD.unpack(data)
    return vote, commit, last_index, last_crc


def meta_crc(key: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key.encode() + b"\0"))


def snapshot_hash(index: int, term: int, base_index: int, base_term: int, conf: bytes, data: bytes) -> bytes:
    digest = hashlib.sha256(_SNAPSHOT.pack(index, term, base_index, base_term))
    digest.update(hashlib.sha256(conf).digest())
    digest.update(data)
    return digest.digest()


def conf_to_bytes(conf: ConfState) -> bytes:
    return dumps(conf_to_list(conf))


def conf_from_bytes(data: bytes) -> ConfState:
    """Raises CodecError."""
    conf = conf_from_list(loads(data))
    if conf is None:
        raise CodecError("not a configuration")
    return conf


# --- opening --------------------------------------------------------------------------------------------------------


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def lock(path: Path) -> int:
    """The descriptor that holds the lock beside `path`; it goes with the process, however that ends."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LocalError(f"raft database {path}: another process has it open") from None
    return descriptor


def unlock(descriptor: int) -> None:
    os.close(descriptor)


def mark_made(descriptor: int) -> None:
    """Note in the lock file that there is a database here, so that its absence is noticed: an empty one would vote
    again in terms in which this device has voted already."""
    if not was_made(descriptor):
        os.write(descriptor, b"made\n")
        os.fsync(descriptor)


def was_made(descriptor: int) -> bool:
    return os.fstat(descriptor).st_size > 0


def create(path: Path) -> None:
    """An empty database at `path`, there whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    remove(fresh)
    database = sqlite3.connect(fresh, isolation_level=None)
    try:
        set_up(database)
        pragmas = f"PRAGMA user_version={SCHEMA_VERSION}; PRAGMA application_id={APPLICATION_ID};"
        database.executescript(f"BEGIN; {SCHEMA} {pragmas} COMMIT;")
    finally:
        database.close()  # the write-ahead log goes into the file, synced
    os.chmod(fresh, 0o600)
    os.replace(fresh, path)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a database with its side files."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def set_up(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("PRAGMA wal_autocheckpoint=0")  # the store's thread chooses the moment
    database.execute(f"PRAGMA journal_size_limit={RAFT_CHORE_FACTOR * RAFT_WAL_BYTES}")  # a large snapshot's room goes


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing database and bring it to the present layout; its rows are not looked at yet.

    Raises StoreCorruptError; RemoteError for a newer layout or another program's file; sqlite3.Error for what the
    system refuses.
    """
    _connect_check_files(path)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=128)
    database.text_factory = _text
    try:
        set_up(database)
        _connect_check_version(database, path)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # no remains of a torn write lie behind what comes next
    except (sqlite3.Error, UnicodeDecodeError) as error:
        database.close()
        raise explain_read(error, path) from error
    except BaseException:
        database.close()
        raise
    return database


def _connect_check_files(path: Path) -> None:
    """What SQLite would pass over in silence."""
    wal = wal_of(path)
    if path.stat().st_size == 0:
        raise StoreCorruptError(path, "the file is empty")
    try:
        check_wal(wal)
    except WalDamagedError as error:
        raise StoreCorruptError(path, f"{wal.name}: {error}") from None


def _connect_check_version(database: sqlite3.Connection, path: Path) -> None:
    application = int(database.execute("PRAGMA application_id").fetchone()[0])
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if application != APPLICATION_ID or version < 1:
        raise RemoteError("not a raft database of ours: move it away to start afresh", who=str(path))
    if version > SCHEMA_VERSION:
        raise RemoteError(
            f"layout {version}, this version reads up to {SCHEMA_VERSION}: update edgeswarm on this device",
            who=str(path),
        )
    if version == 1 and database.execute("SELECT 1 FROM sqlite_master WHERE name = 'hard_state'").fetchone() is None:
        raise StoreCorruptError(path, "its tables are not those of its layout")
    if version == 1:
        _migrate_1_to_2(database, path)


def _migrate_1_to_2(database: sqlite3.Connection, path: Path) -> None:
    """In one transaction: a power cut leaves layout 1 or layout 2."""
    database.execute("BEGIN IMMEDIATE")
    hard = database.execute("SELECT term, vote, commit_index, crc FROM hard_state").fetchone()
    if hard is not None:
        term, vote, commit, crc = hard
        if zlib.crc32(_HARD_1.pack(term, vote, commit)) != crc:
            raise StoreCorruptError(path, "hard state: its checksum does not match")
        base = database.execute("SELECT base_idx FROM snapshot").fetchone() or (0,)
        last = database.execute("SELECT idx, crc FROM log ORDER BY idx DESC LIMIT 1").fetchone() or (base[0], 0)
        row = hard_row(HardState(term, vote, commit), *last)
        database.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", row)
    database.execute("DROP TABLE hard_state")
    database.execute(AUDIT)
    database.execute("PRAGMA user_version=2")
    database.execute("COMMIT")


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def explain_read(error: Exception, path: Path) -> RemoteError | LocalError:
    """The same while a database is opened and read: SQL of ours that SQLite finds wrong says the file is damaged."""
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "") != "SQLITE_ERROR":
        return explain(error, path)
    return StoreCorruptError(path, f"{error}")


def explain(error: sqlite3.Error | OSError, path: Path) -> RemoteError | LocalError:
    """Which error of ours an error of SQLite is."""
    from edgeswarm.drivers.store import StoreError

    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreCorruptError(path, str(error))
    if name.startswith("SQLITE_FULL"):
        return StoreError(f"{path}: {error}: nothing was saved; make room, then start again")
    return StoreError(f"{path}: {error} {name}".rstrip())
