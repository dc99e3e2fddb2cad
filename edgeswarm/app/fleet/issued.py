"""Which X.509 certificates were given to whom: their serial numbers are what a revocation list names.

FLEET/pki/issued.jsonl, one line a certificate: device, serial (decimal text: 128 bits and more), until_s.  Lines of
certificates that have run out go when there are many.  The roster is the truth of who is in; this serves the broker.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from edgeswarm.app.fleet.folder import FleetFolder
from edgeswarm.drivers.files import write_whole
from edgeswarm.limits import DEVICES_MAX, ISSUED_BYTES_MAX, ISSUED_LINE_BYTES_MAX

_LOCK = threading.Lock()


def path_of(folder: FleetFolder) -> Path:
    return folder.pki / "issued.jsonl"


def note(folder: FleetFolder, device: str, serial: int, until_s: int, *, now_s: int) -> None:
    """Remember a certificate, on disk before it is given away.  Raises OSError."""
    line = json.dumps({"device": device, "serial": str(serial), "until_s": until_s}) + "\n"
    line = "\n" + line  # what a power cut tore before it stays a line of its own
    path = path_of(folder)
    with _LOCK:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > ISSUED_BYTES_MAX:
            _compact(path, now_s)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode())
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


class Leaves:
    """Makes devices' certificates, and notes them.  May be called from any thread.

    Who asks again for the same gets the same one: a device that asks without a pause fills neither the disk nor, once
    it is revoked, the list of what is.
    """

    def __init__(self, folder: FleetFolder) -> None:
        self._folder = folder
        self._kept: dict[str, tuple[tuple[bytes, bytes, int, int], bytes]] = {}  # device -> what for, the newest

    def make(
        self, issuer: tuple[bytes, bytes], device: str, public: bytes, begin_s: int, end_s: int, *, now_s: int
    ) -> tuple[bytes, bool]:
        """(certificate, whether it is new).  issuer: its key's seed, its certificate.  Raises OSError, LocalError."""
        from edgeswarm.drivers.pki import x509

        wanted, kept = (issuer[1], public, begin_s, end_s), self._kept.get(device)
        if kept is not None and kept[0] == wanted:
            return kept[1], False
        leaf = x509.make_device(*issuer, device, public, begin_s, end_s)
        note(self._folder, device, x509.serial_of(leaf), end_s, now_s=now_s)
        if len(self._kept) >= DEVICES_MAX:  # many have left since
            self._kept.clear()
        self._kept[device] = wanted, leaf
        return leaf, True


def serials_of(folder: FleetFolder, device: str, now_s: int) -> list[int]:
    """Of certificates of the device that have not run out; a line that does not read is passed over."""
    return [serial for name, serial, until_s in _lines(path_of(folder)) if name == device and until_s >= now_s]


def rows(folder: FleetFolder, now_s: int) -> list[tuple[str, int]]:
    """(device, serial number) of all certificates that have not run out."""
    return [(name, serial) for name, serial, until_s in _lines(path_of(folder)) if until_s >= now_s]


def _compact(path: Path, now_s: int) -> None:
    kept = [row for row in _lines(path) if row[2] >= now_s]
    text = "".join(json.dumps({"device": d, "serial": str(s), "until_s": u}) + "\n" for d, s, u in kept)
    write_whole(path, text.encode())


def _lines(path: Path) -> list[tuple[str, int, int]]:
    found = []
    try:
        with open(path, "rb") as file:
            while line := file.readline(ISSUED_LINE_BYTES_MAX):
                try:
                    row = json.loads(line)
                    found.append((str(row["device"]), int(row["serial"]), int(row["until_s"])))
                except (ValueError, KeyError, TypeError):
                    continue  # torn by a power cut
    except FileNotFoundError:
        pass
    return found
