"""The tables of a voter's database, their checksums, and how an older layout becomes the present one.

A row's CRC covers all that the row says, so that a row which is whole but belongs elsewhere is found too.
Layouts: 1 held the hard state in a table of its own; 2 holds it in row 0 of `log` and has `audit`.
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

from edgeswarm.errors import CodecError, LocalError, RemoteError
from edgeswarm.wire.codec import dumps, loads
from edgeswarm.wire.raft import ConfState, conf_from_list, conf_to_list

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x45535246  # "ESRF": a database of another program is told apart
SCHEMA_1: Final = """
CREATE TABLE log (
  idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, type INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL );
CREATE TABLE hard_state (
  id INTEGER PRIMARY KEY CHECK (id = 1), term INTEGER NOT NULL, vote INTEGER NOT NULL, commit_index INTEGER NOT NULL,
  crc INTEGER NOT NULL );
CREATE TABLE snapshot (
  id INTEGER PRIMARY KEY CHECK (id = 1), idx INTEGER NOT NULL, term INTEGER NOT NULL, base_idx INTEGER NOT NULL,
  base_term INTEGER NOT NULL, conf BLOB NOT NULL, data BLOB NOT NULL, sha256 BLOB NOT NULL );
CREATE TABLE meta ( key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL ) WITHOUT ROWID;
"""


class StoreCorruptError(RemoteError):
    """A voter's database is damaged: it must not be used, since what is missing may have been promised to others."""

    def __init__(self, path: Path, found: str) -> None:
        cure = "move it away and let this device rejoin as a learner (docs/recovery.md)"
        super().__init__(f"raft database is damaged: {found}; {cure}", who=str(path))
        self.found = found


# --- rows -----------------------------------------------------------------------------------------------------------

_HEAD: Final = struct.Struct(">QQB")
_HARD: Final = struct.Struct(">QQQ")
_SNAPSHOT: Final = struct.Struct(">QQQQ")


def entry_crc(index: int, term: int, kind: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_HEAD.pack(index, term, kind)))


def hard_crc(term: int, vote: int, commit: int) -> int:
    return zlib.crc32(_HARD.pack(term, vote, commit))


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


def connect(path: Path) -> sqlite3.Connection:
    """Open or create, in the present layout.  Raises StoreCorruptError, sqlite3.Error for what the system refuses."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA wal_autocheckpoint=0")  # the store's thread chooses the moment
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        if version == 0:
            create = f"{SCHEMA_1} PRAGMA user_version={SCHEMA_VERSION}; PRAGMA application_id={APPLICATION_ID};"
            database.executescript(f"BEGIN; {create} COMMIT;")
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database
