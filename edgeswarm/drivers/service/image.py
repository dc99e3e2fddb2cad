"""Paths of a machine whose file system lies at `root`: this machine's "/", or an image that is being built.

Invariant: nothing that is looked at or written through `Image.at` lies outside the root, whatever links the image
holds.  An absolute link of an image means the image's own file, never this machine's.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from edgeswarm.drivers import files
from edgeswarm.errors import LocalError
from edgeswarm.limits import INSTALL_ACCOUNT_BYTES_MAX

_LINKS_MAX: Final = 40  # as the kernel's own MAXSYMLINKS
_IDS: Final = range(999, 99, -1)  # of accounts of the system, from above, as systemd-sysusers takes them
_NO_LOGIN: Final = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false")
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,30}")


@dataclass(frozen=True, slots=True)
class Account:
    """uid and gid in the image's own /etc/passwd."""

    name: str
    uid: int
    gid: int


class Image:
    """root: an existing folder.  Raises LocalError otherwise."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root.resolve()
        if not self.root.is_dir():
            raise LocalError(f"root {root}: expected a folder")

    @property
    def is_live(self) -> bool:
        return self.root == Path("/")

    def at(self, path: str, *, follow: bool = False) -> Path:
        """Where `path` of the image is for us; links on the way are followed inside the image.

        follow: the last part too.  Raises LocalError for links in a circle.
        """
        todo = list(reversed(PurePosixPath(path).parts[1:]))
        found: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                found = found[:-1]  # above the root there is the root
                continue
            here = self.root.joinpath(*found, part)
            if (todo or follow) and here.is_symlink():
                links += 1
                if links > _LINKS_MAX:
                    raise LocalError(f"{path}: more than {_LINKS_MAX} links, one after the other")
                target = PurePosixPath(os.readlink(here))
                if target.is_absolute():
                    found = []
                todo.extend(reversed([p for p in target.parts if p != "/"]))
            else:
                found.append(part)
        return self.root.joinpath(*found)

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """None when there is no such file.  Raises LocalError for what is no file, or too large; OSError."""
        try:
            descriptor = os.open(self.at(path, follow=True), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                return None
            raise
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise LocalError(f"{path}: expected a file")
            data = file.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise LocalError(f"{path}: at most {bytes_max} bytes")
        return data

    # --- accounts -----------------------------------------------------------------------------------------------------

    def account(self, name: str) -> Account | None:
        """From the image's own /etc/passwd."""
        for fields in self._rows("/etc/passwd"):
            if fields[0] == name and len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit():
                return Account(name, int(fields[2]), int(fields[3]))
        return None

    def add_account(self, name: str, *, home: str, about: str) -> Account:
        """An account of the system without password and shell, written into the image's files; what is there stays.

        Raises LocalError when no number is free, or the image has no /etc/passwd.
        """
        assert _NAME.fullmatch(name)
        found = self.account(name)
        if found is not None:
            return found
        groups = {fields[0]: fields for fields in self._rows("/etc/group")}
        taken = {fields[2] for fields in (*groups.values(), *self._rows("/etc/passwd")) if len(fields) > 2}
        number = next((number for number in _IDS if str(number) not in taken), None)
        if number is None:
            raise LocalError(f"account {name}: no number from {_IDS[-1]} to {_IDS[0]} is free")
        gid = int(groups[name][2]) if name in groups else number
        shell = next((path for path in _NO_LOGIN if self.at(path, follow=True).exists()), _NO_LOGIN[-1])
        if name not in groups:
            self._append("/etc/group", f"{name}:x:{gid}:")
        if self.at("/etc/shadow").exists():
            self._append("/etc/shadow", f"{name}:!*:::::::")
        self._append("/etc/passwd", f"{name}:x:{number}:{gid}:{about}:{home}:{shell}")
        return Account(name, number, gid)

    def drop_account(self, name: str) -> None:
        """Take it out of the image's files."""
        for path in ("/etc/passwd", "/etc/shadow", "/etc/group"):
            text = self.read(path, INSTALL_ACCOUNT_BYTES_MAX)
            if text is not None:
                kept = [line for line in text.splitlines(keepends=True) if not line.startswith(f"{name}:".encode())]
                self._put(path, b"".join(kept))

    def _rows(self, path: str) -> list[list[str]]:
        text = self.read(path, INSTALL_ACCOUNT_BYTES_MAX) or b""
        return [line.split(":") for line in text.decode("utf-8", "replace").splitlines() if line and line[0] != "#"]

    def _append(self, path: str, line: str) -> None:
        text = self.read(path, INSTALL_ACCOUNT_BYTES_MAX)
        if text is None:
            raise LocalError(f"{path}: not there; is {self.root} the root of a machine?")
        gap = b"" if not text or text.endswith(b"\n") else b"\n"
        self._put(path, text + gap + line.encode() + b"\n")

    def _put(self, path: str, data: bytes) -> None:
        """Mode and owner stay."""
        place = self.at(path, follow=True)
        before = place.stat()
        files.write_whole(place, data, mode=stat.S_IMODE(before.st_mode))
        place.chmod(stat.S_IMODE(before.st_mode))
        if os.geteuid() == 0:
            os.chown(place, before.st_uid, before.st_gid)
