"""Takes away what an installation noted: the same files, links and folders, unless somebody changed them since.

State and settings stay, unless `purge` is asked for.
"""

from __future__ import annotations

import os
import shutil
from pathlib import PurePosixPath

from edgeswarm.drivers.service import note as notes
from edgeswarm.drivers.service.image import Image
from edgeswarm.drivers.service.note import Entry, Note
from edgeswarm.drivers.service.perform import InstallError, Runner, Step, carry_out, run_command
from edgeswarm.drivers.service.plan import Plan
from edgeswarm.errors import LocalError

_NEVER = frozenset(
    "/ /bin /boot /dev /etc /home /lib /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp /usr /usr/lib /usr/local "
    "/var /var/lib".split()
)


def remove(
    plan: Plan, image: Image, *, purge: bool = False, dry_run: bool = False, run: Runner = run_command
) -> list[Step]:
    """plan: as it would be installed now, for its commands.  Raises LocalError when nothing was installed here."""
    note = notes.read(image, plan.note)
    if note is None:
        raise LocalError(f"{plan.note}: not there: nothing was installed by `edgeswarm daemon install`")
    if purge and note.state in _NEVER:
        raise LocalError(f"state {note.state}: will not be removed as a whole")
    steps = [carry_out(command, image, dry_run=dry_run, run=run) for command in plan.stop]
    settings = {item.path for item in plan.items if getattr(item, "keep", False)}
    changed: list[str] = []
    for entry in reversed([entry for entry in note.entries if entry.kind != "folder"]):
        step = _drop(entry, image, keep=entry.path in settings and not purge, purge=purge, dry_run=dry_run)
        steps.append(step)
        changed += [entry.path] if step.outcome in ("kept", "changed") else []
    steps += [carry_out(command, image, dry_run=dry_run, run=run) for command in plan.gone]
    if purge:
        steps += _purge(note, image, dry_run=dry_run, run=run)
    else:
        steps.append(Step("folder", note.state, "kept", "state; --purge removes it, with the keys of this device"))
    if not dry_run:
        image.at(plan.note).unlink(missing_ok=True)
    for entry in reversed([entry for entry in note.entries if entry.kind == "folder"]):
        steps.append(_drop_folder(entry.path, image, dry_run=dry_run, holds=changed))
    return steps


def _drop(entry: Entry, image: Image, *, keep: bool, purge: bool, dry_run: bool) -> Step:
    place = image.at(entry.path)
    if not os.path.lexists(place):
        return Step(entry.kind, entry.path, "same", "is gone already")
    if keep:
        return Step(entry.kind, entry.path, "kept", "settings; --purge removes them")
    if place.is_dir() and not place.is_symlink():
        return Step(entry.kind, entry.path, "changed", "is a folder now, and stays")
    found = os.readlink(place) if place.is_symlink() else notes.digest(place.read_bytes())
    if found != entry.holds and not purge:
        return Step(entry.kind, entry.path, "changed", "was changed since, and stays; --purge removes it")
    if not dry_run:
        place.unlink()
    return Step(entry.kind, entry.path, "removed")


def _drop_folder(path: str, image: Image, *, dry_run: bool, holds: list[str]) -> Step:
    """Only an empty one."""
    if dry_run:
        inside = any(PurePosixPath(name).is_relative_to(path) for name in holds)
        return Step("folder", path, "kept" if inside else "removed", "if it is empty then")
    try:
        image.at(path, follow=True).rmdir()
    except FileNotFoundError:
        return Step("folder", path, "same", "is gone already")
    except OSError as error:
        return Step("folder", path, "kept", error.strerror or "")
    return Step("folder", path, "removed")


def _purge(note: Note, image: Image, *, dry_run: bool, run: Runner) -> list[Step]:
    """State with every key, then the account, if it was made by the installation."""
    place = image.at(note.state, follow=True)
    steps = [Step("folder", note.state, "removed" if place.exists() else "same", "state, with the keys of this device")]
    if not dry_run and place.exists():
        shutil.rmtree(place)
    if note.account is None:
        return steps
    if not dry_run:
        if image.is_live and shutil.which("userdel"):
            code, said = run(("userdel", note.account))
            if code != 0:
                raise InstallError(f"userdel {note.account}: {said}")
        image.drop_account(note.account)
    return [*steps, Step("account", note.account, "removed")]
