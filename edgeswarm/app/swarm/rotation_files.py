"""The key and the certificate of a device on disk while they change.  A power cut at any step leaves what works.

    DIR/keys/device.key         the key in use            DIR/swarm/device.crt, device.pem   its TLS files
    DIR/keys/device.key.next    made, not in use yet      DIR/swarm/next.crt, next.pem       the next ones
    DIR/keys/device.key.old     the one before            DIR/swarm/rotation                 a swap is under way

Two things change, each when it may: *messages* are signed with the key that the roster names (`choose`), whichever
file it is in; *TLS* goes over when the broker has taken the next certificate (`swap`): then, and not before, the mark
`rotation` is written, and from there on `settle` finishes the work, however often it is interrupted.
Invariants: device.crt and device.pem belong together unless the mark is there; device.key.old goes last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeswarm.app.swarm.config import folder
from edgeswarm.drivers import keys
from edgeswarm.drivers.files import sync_directory, write_whole
from edgeswarm.drivers.keys import SigningKey
from edgeswarm.errors import ConfigError, LocalError, PermissionDeniedError


class KeyFiles:
    """state_dir: of the device."""

    def __init__(self, state_dir: Path) -> None:
        self.key = state_dir / "keys" / "device.key"
        self.next_key = self.key.with_name("device.key.next")
        self.old_key = self.key.with_name("device.key.old")
        self.folder = folder(state_dir)
        self.certificate, self.pem = self.folder / "device.crt", self.folder / "device.pem"
        self.next_certificate, self.next_pem = self.folder / "next.crt", self.folder / "next.pem"
        self.mark = self.folder / "rotation"
        self.brokers = self.folder / "join-brokers"

    # --- keys ---------------------------------------------------------------------------------------------------------

    def make_next(self) -> SigningKey:
        """The next key: the one that was made before, if it was not used yet.  Raises ConfigError, OSError."""
        try:
            made, fresh = keys.load_or_make(self.next_key)
        except ConfigError:  # half written
            self.next_key.unlink()
            made, fresh = keys.load_or_make(self.next_key)
        if fresh:
            sync_directory(self.key.parent)
        return made

    def all(self) -> list[SigningKey]:
        """Every key that is there: in use, next, old."""
        found = []
        for path in (self.key, self.next_key, self.old_key):
            if path.exists():
                try:
                    found.append(keys.load_or_make(path)[0])
                except (ConfigError, PermissionDeniedError):
                    if path == self.key:
                        raise
        return found

    def choose(self, public: bytes | None) -> SigningKey | None:
        """The key that the roster names, if it is here."""
        return next((key for key in self.all() if key.public == public), None)

    def named(self, device: str, public: bytes | None) -> SigningKey:
        """The key that the roster names, which may be the next one.  Raises LocalError."""
        key = self.choose(public)
        if key is None:
            raise LocalError(f"swarm: the key of this state directory is not the roster's for device {device}")
        return key

    # --- TLS ----------------------------------------------------------------------------------------------------------

    def stage(self, chain: bytes, pem: bytes) -> None:
        """Keep the next certificate and its key beside those in use."""
        self._drop(self.next_certificate)
        write_whole(self.next_pem, pem)
        write_whole(self.next_certificate, chain, mode=0o644)

    @property
    def is_staged(self) -> bool:
        return self.next_certificate.exists() and self.next_pem.exists()

    def swap(self, keep: Callable[[SigningKey], None] = lambda key: None) -> None:
        """The broker has taken the next certificate: from here on it is the one in use.  keep: see `settle`."""
        if not self.is_staged:
            raise LocalError(f"{self.folder}: there is no next certificate to go over to")
        write_whole(self.mark, b"the next key and certificate are taken into use\n")
        self.settle(keep)

    def settle(self, keep: Callable[[SigningKey], None] = lambda key: None) -> bool:
        """Finish a swap that was under way; True when there was one.  To be called before the files are read.

        keep: told of the old key before it goes, for what local files were sealed under.
        """
        if not self.mark.exists():
            return False
        if self.next_key.exists():
            current, following = keys.load_or_make(self.key)[0], keys.load_or_make(self.next_key)[0]
            if current.public != following.public:
                keep(current)
                write_whole(self.old_key, self.key.read_bytes())
                write_whole(self.key, self.next_key.read_bytes())
        if self.next_pem.exists():
            write_whole(self.pem, self.next_pem.read_bytes())
        if self.next_certificate.exists():
            write_whole(self.certificate, self.next_certificate.read_bytes(), mode=0o644)
        self.mark.unlink()
        sync_directory(self.folder)
        self._drop(self.next_certificate, self.next_pem, self.next_key)
        return True

    def clean(self) -> None:
        """Remove what a power cut left of a swap that was finished: then the next key is the one in use."""
        if not self.mark.exists() and self.next_key.exists():
            if self.make_next().public == keys.load_or_make(self.key)[0].public:
                self._drop(self.next_certificate, self.next_pem, self.next_key)

    def forget_old(self) -> None:
        """The new key has worked."""
        self._drop(self.old_key)

    @staticmethod
    def _drop(*paths: Path) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
