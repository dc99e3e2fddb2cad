"""Where a bundle lives: PREFIX/<version>/, a link `current`, a link `previous`, and the trial of a new version.

    PREFIX/bin/edgeswarm          the launcher; it runs what `current` names
    PREFIX/<version>/bundle.json  what this version is; PREFIX/<version>/lib its packages
    PREFIX/current, previous      links to a version's name
    PREFIX/var/trial              "<new> <old> <attempts>\\n" while a version is on trial; its folder is the daemon's

A trial begins with its file, then the link is switched; the daemon ends it by removing the file once it was healthy
long enough.  Invariant: a trial counts only while `current` names its new version, so that a power cut between the two
steps leaves the old version, and a stale file.  The launcher adds one to `attempts` at each start of the daemon, and
runs `old` once TRIAL_STARTS_MAX starts were not enough; whoever may (root) then turns the link back.

Only the trial's file is the daemon's to write.  It names versions, never paths, and `old` must be what the link
`previous` names: a daemon that was taken over can undo the last upgrade, and nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeswarm.drivers import files
from edgeswarm.errors import LocalError, PermissionDeniedError
from edgeswarm.limits import TRIAL_BYTES_MAX, TRIAL_STARTS_MAX

DEFAULT: Final = Path("/opt/edgeswarm")
MARK: Final = "bundle.json"
_HOME: Final = Path(__file__).resolve().parents[4]
"""PREFIX/<version>, where this is PREFIX/<version>/lib/edgeswarm/drivers/service/prefix.py."""
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+_-]{0,63}")
_TRIAL = re.compile(r"(\S{1,64}) (\S{1,64}) ([0-9])\n?")


@dataclass(frozen=True, slots=True)
class Trial:
    """attempts: starts of `new` so far, 0..9."""

    new: str
    old: str
    attempts: int

    @property
    def is_lost(self) -> bool:
        """It had its starts: `old` runs from now on."""
        return self.attempts >= TRIAL_STARTS_MAX


class Prefix:
    """The tree of one bundle's versions."""

    def __init__(self, path: Path = DEFAULT) -> None:
        self.path = path

    @classmethod
    def of_this_program(cls) -> Prefix | None:
        """Where the running program was installed by a bundle; None for a checkout, a wheel, an editable install."""
        return cls(_HOME.parent) if (_HOME / MARK).is_file() else None

    @property
    def launcher(self) -> Path:
        return self.path / "bin" / "edgeswarm"

    @property
    def trial_file(self) -> Path:
        return self.path / "var" / "trial"

    def command(self, version: str | None = None) -> list[str]:
        """How this program is started: by the launcher, which asks the link; or this very version, whatever it names.

        The launcher counts a start of `run` during a trial; a version that is named counts nothing.
        """
        if version is None:
            return [str(self.launcher)]
        return [sys.executable, "-IS", str(self.path / version / "start.py")]

    def versions(self) -> list[str]:
        """Names of the versions that are unpacked here, sorted."""
        return sorted(mark.parent.name for mark in self.path.glob(f"*/{MARK}") if not mark.parent.is_symlink())

    def current(self) -> str | None:
        return self._link("current")

    def previous(self) -> str | None:
        return self._link("previous")

    def _link(self, name: str) -> str | None:
        try:
            target = os.readlink(self.path / name)
        except OSError:
            return None
        return target if _VERSION.fullmatch(target) else None

    def switch(self, version: str) -> None:
        """`current` names `version` from now on, `previous` what it named; each link is replaced in one step.

        Raises LocalError when the version is not here, PermissionDeniedError for who may not write PREFIX.
        """
        if not _VERSION.fullmatch(version) or not (self.path / version / MARK).is_file():
            raise LocalError(f"{self.path}: expected one of {', '.join(self.versions()) or 'none'}, found {version!r}")
        before = self.current()
        try:
            if before is not None and before != version:
                self._replace("previous", before)
            self._replace("current", version)
            files.sync_directory(self.path)
        except PermissionError:
            raise PermissionDeniedError(f"{self.path}: only its owner may switch the version; run it as root") from None

    def _replace(self, name: str, target: str) -> None:
        fresh = self.path / f".{name}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(self.path / name)

    # --- trials -------------------------------------------------------------------------------------------------------

    def trial(self) -> Trial | None:
        """The trial under way; None when there is none, or its file makes no sense, or the link says otherwise."""
        found = self._noted("trial")
        if found is None or found.new == found.old or (found.new, found.old) != (self.current(), self.previous()):
            return None
        return found

    def lost(self) -> Trial | None:
        """The last trial that ended with the old version: what an operator is told."""
        return self._noted("trial.lost")

    def _noted(self, name: str) -> Trial | None:
        """A file that the daemon's user may have made: never a link, never waited for."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self.trial_file.with_name(name), flags)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            try:
                found = _TRIAL.fullmatch((file.read(TRIAL_BYTES_MAX) or b"").decode("ascii", "replace"))
            except OSError:
                return None
        if found is None or not (_VERSION.fullmatch(found[1]) and _VERSION.fullmatch(found[2])):
            return None
        return Trial(found[1], found[2], int(found[3]))

    def begin_trial(self, new: str) -> Trial:
        """Try `new`: the file first, then the link.  Raises LocalError without a version to go back to."""
        old = self.current()
        if old is None or old == new:
            raise LocalError(f"{self.path}/current: expected another version than {new}, found {old or 'none'}")
        if new not in self.versions():
            raise LocalError(f"{self.path}: expected one of {', '.join(self.versions()) or 'none'}, found {new!r}")
        folder = self.trial_file.parent
        try:
            folder.mkdir(exist_ok=True, mode=0o755)
            self.trial_file.with_name("trial.lost").unlink(missing_ok=True)
            files.write_whole(self.trial_file, f"{new} {old} 0\n".encode(), mode=0o644)
            owner = folder.stat()
            if os.geteuid() == 0:
                os.chown(self.trial_file, owner.st_uid, owner.st_gid, follow_symlinks=False)
        except PermissionError:
            raise PermissionDeniedError(f"{folder}: only its owner may begin a trial; run it as root") from None
        self.switch(new)
        return Trial(new, old, 0)

    def confirm(self, version: str | None = None) -> bool:
        """The daemon of `version` is healthy: its trial is over.  False when none was under way.  Raises OSError.

        version: where it is not the one that this program was unpacked as.
        """
        version = _HOME.name if version is None else version
        trial = self.trial()
        if trial is None or trial.new != version:
            return False
        self.trial_file.unlink(missing_ok=True)
        files.sync_directory(self.trial_file.parent)
        return True

    def roll_back(self) -> str | None:
        """End a trial with the old version: link, then file; the version that runs now, None without a trial."""
        trial = self.trial()
        if trial is None:
            return None
        try:  # `previous` stays: what was tried is nothing to go back to
            self._replace("current", trial.old)
            files.sync_directory(self.path)
        except PermissionError:
            raise PermissionDeniedError(f"{self.path}: only its owner may switch the version; run it as root") from None
        self.trial_file.replace(self.trial_file.with_name("trial.lost"))
        return trial.old

    def remove(self, version: str) -> None:
        """Raises LocalError for the version in use and the one to go back to."""
        if version in (self.current(), self.previous()):
            raise LocalError(f"{self.path}/{version}: is in use, or is what a roll-back goes to")
        if version in self.versions():
            shutil.rmtree(self.path / version)
