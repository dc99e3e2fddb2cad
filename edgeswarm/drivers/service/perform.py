"""Carries a plan out: looks first and refuses before anything is written, then writes, notes, and runs the commands.

What differs from the plan and was not written by an earlier installation is somebody's work: it is refused by name
unless `force` says otherwise.  Doing it again changes nothing.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeswarm.drivers import files
from edgeswarm.drivers.service import note as notes
from edgeswarm.drivers.service.image import Account, Image
from edgeswarm.drivers.service.note import Entry, Note
from edgeswarm.drivers.service.plan import Command, File, Folder, Item, Link, Plan
from edgeswarm.errors import EdgeSwarmError, LimitError, LocalError, PermissionDeniedError
from edgeswarm.limits import INSTALL_COMMAND_S, INSTALL_FILES_MAX, INSTALL_OUTPUT_CHARS_MAX

Outcome = Literal["made", "replaced", "same", "kept", "removed", "changed", "done", "failed", "left out"]
IDENTITY = ("keys", "swarm", "edgeswarm.db", "edgeswarm.db-wal", "audit")
"""What of a state directory belongs to one device: no image may hold any of it."""


class InstallError(EdgeSwarmError):
    """A command of the service manager failed; the text holds what it said."""


@dataclass(frozen=True, slots=True)
class Step:
    """kind: folder, file, link, account, command.  what: its path, name or words.  detail: why, or what was said."""

    kind: str
    what: str
    outcome: Outcome
    detail: str = ""


Runner = Callable[[tuple[str, ...]], tuple[int, str]]


def run_command(words: tuple[str, ...]) -> tuple[int, str]:
    """(exit code, the end of what it said); 127 when there is no such program, 124 when it took too long."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=INSTALL_COMMAND_S
        )
    except FileNotFoundError:
        return 127, f"{words[0]}: not there"
    except OSError as error:
        return 126, f"{words[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 124, f"took longer than {INSTALL_COMMAND_S:g} s"
    return done.returncode, (done.stdout + done.stderr).strip()[-INSTALL_OUTPUT_CHARS_MAX:]


def perform(
    plan: Plan, image: Image, *, program: str, dry_run: bool = False, force: bool = False, run: Runner = run_command
) -> list[Step]:
    """What was done, in order; with dry_run what would be.

    Raises LocalError when something stands in the way, before anything is written; PermissionDeniedError; InstallError
    when a command fails, with everything written and noted: doing it again goes on.
    """
    before = notes.read(image, plan.note)
    _check(plan, image, before, force=force)
    steps: list[Step] = []
    account, made = _account(plan, image, steps, dry_run=dry_run, run=run)
    made = made or (before.account if before is not None else None) is not None
    entries: list[Entry] = []
    for item in plan.items:
        steps.append(_make(item, image, account, dry_run=dry_run))
        if steps[-1].outcome != "kept" or (before is not None and before.of(item.path) is not None):
            entries += _entry(item, before, steps[-1])
    entries += _older(before, entries)
    if len(entries) > INSTALL_FILES_MAX:
        raise LimitError(f"{plan.note}: {len(entries)} files, at most {INSTALL_FILES_MAX}")
    changed = any(step.outcome in ("made", "replaced") and step.kind != "folder" for step in steps)
    if not dry_run:
        note = Note(1, plan.init, plan.state, program, tuple(entries), plan.account if made else None)
        if before != note:
            notes.write(image, plan.note, note)
    for command in (*plan.after, *(plan.restart if changed else plan.start)):
        steps.append(carry_out(command, image, dry_run=dry_run, run=run))
    return steps


# --- looking ----------------------------------------------------------------------------------------------------------


def _check(plan: Plan, image: Image, before: Note | None, *, force: bool) -> None:
    """Raises LocalError with everything that stands in the way."""
    wrong: list[str] = []
    for item in plan.items:
        place = image.at(item.path, follow=isinstance(item, Folder))
        if not os.path.lexists(place):
            continue
        if isinstance(item, Folder):
            wrong += [] if place.is_dir() else [f"{item.path}: expected a folder"]
        elif place.is_dir() and not place.is_symlink():
            wrong.append(f"{item.path}: is a folder")
        elif not force and not _is_ours(item, place, before):
            wrong.append(f"{item.path}: differs from what is installed, and no installation wrote it")
    wrong += _wrong_state(plan, image)
    if wrong:
        more = "" if force else "; move it away, put your changes into a drop-in, or overwrite it with --force"
        raise LocalError("in the way of the installation:\n  " + "\n  ".join(wrong) + more)


def _is_ours(item: File | Link, place: Path, before: Note | None) -> bool:
    """Nothing is lost when it is replaced: it is the same, the operator's to keep, or as an installation left it."""
    found = os.readlink(place) if place.is_symlink() else notes.digest(place.read_bytes())
    if isinstance(item, File) and (item.keep or found == notes.digest(item.content)):
        return True
    if isinstance(item, Link) and found == item.target:
        return True
    entry = before.of(item.path) if before is not None else None
    return entry is not None and entry.holds == found


def _wrong_state(plan: Plan, image: Image) -> list[str]:
    """A folder that is somebody else's must not become ours because its name was given as --state."""
    place = image.at(plan.state, follow=True)
    if plan.account is None or not place.is_dir() or not any(place.iterdir()):
        return []
    account = image.account(plan.account)
    if (account is not None and place.stat().st_uid == account.uid) or any(
        (place / name).exists() for name in IDENTITY
    ):
        return []
    return [f"{plan.state}: holds something, and nothing of a supervisor; expected an empty folder, or none"]


def identity(image: Image, state: str) -> list[str]:
    """What of one device lies in the state directory: its keys, its certificates, its database.  [] in an image."""
    return [f"{state}/{name}" for name in IDENTITY if os.path.lexists(image.at(f"{state}/{name}"))]


# --- making -----------------------------------------------------------------------------------------------------------


def _account(plan: Plan, image: Image, steps: list[Step], *, dry_run: bool, run: Runner) -> tuple[Account | None, bool]:
    """The account of the service, and whether it was made here."""
    if plan.account is None:
        return None, False
    found = image.account(plan.account)
    if found is not None:
        steps.append(Step("account", plan.account, "same", f"uid {found.uid}"))
        return found, False
    about = "EdgeSwarm supervisor"
    if dry_run:
        steps.append(Step("account", plan.account, "made", "of the system, without password, login and home"))
        return None, True
    shell = "/usr/sbin/nologin"
    words = ("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", plan.state, "--shell", shell)
    if image.is_live and shutil.which("useradd"):  # it knows about locks, ranges and other sources of accounts
        code, said = run((*words, "--comment", about, plan.account))
        if code != 0:
            raise InstallError(f"useradd {plan.account}: {said}")
    account = image.add_account(plan.account, home=plan.state, about=about)
    steps.append(Step("account", plan.account, "made", f"uid {account.uid}"))
    return account, True


def _make(item: Item, image: Image, account: Account | None, *, dry_run: bool) -> Step:
    match item:
        case Folder():
            return _make_folder(item, image, account, dry_run=dry_run)
        case File():
            return _make_file(item, image, dry_run=dry_run)
        case Link():
            return _make_link(item, image, dry_run=dry_run)


def _make_folder(item: Folder, image: Image, account: Account | None, *, dry_run: bool) -> Step:
    place = image.at(item.path, follow=True)
    there = place.is_dir()
    step = Step("folder", item.path, "same" if there else "made", f"{item.mode:04o} {item.owner}")
    if dry_run:
        return step
    place.mkdir(parents=True, exist_ok=True)
    if not there:
        place.chmod(item.mode)
    if account is not None and item.owner == account.name:
        if there and stat.S_IMODE(place.stat().st_mode) != item.mode:
            place.chmod(item.mode)
        give(place, account)
    return step


def give(folder: Path, account: Account) -> None:
    """The folder and all in it belong to the account; links are not followed.  Does nothing but for root."""
    if os.geteuid() != 0 or folder.stat().st_uid == account.uid:
        return
    for top, _, names in os.walk(folder):
        for path in (top, *(os.path.join(top, name) for name in names)):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _make_file(item: File, image: Image, *, dry_run: bool) -> Step:
    place = image.at(item.path)
    there = os.path.lexists(place)
    if there and item.keep:
        return Step("file", item.path, "kept", "is there: it is yours")
    if there and not place.is_symlink() and place.read_bytes() == item.content:
        if not dry_run and stat.S_IMODE(place.stat().st_mode) != item.mode:
            place.chmod(item.mode)
        return Step("file", item.path, "same", f"{item.mode:04o}")
    if not dry_run:
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(place, item.content, mode=item.mode)
        place.chmod(item.mode)  # the umask had its say
    return Step("file", item.path, "replaced" if there else "made", f"{item.mode:04o}, {len(item.content)} bytes")


def _make_link(item: Link, image: Image, *, dry_run: bool) -> Step:
    place = image.at(item.path)
    there = os.path.lexists(place)
    if there and place.is_symlink() and os.readlink(place) == item.target:
        return Step("link", item.path, "same", f"-> {item.target}")
    if not dry_run:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(place.name + ".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(item.target)
        fresh.replace(place)
    return Step("link", item.path, "replaced" if there else "made", f"-> {item.target}")


def carry_out(command: Command, image: Image, *, dry_run: bool, run: Runner) -> Step:
    if not image.is_live:
        return Step("command", command.text, "left out", f"an image: {command.about}")
    if dry_run:
        return Step("command", command.text, "done", command.about)
    code, said = run(command.words)
    if code == 0:
        return Step("command", command.text, "done", said or command.about)
    if not command.optional:
        text = f"{command.text} (exit {code}): {said}"
        raise PermissionDeniedError(text) if "ermission denied" in said else InstallError(text)
    return Step("command", command.text, "failed", said)


def _entry(item: Item, before: Note | None, step: Step) -> list[Entry]:
    """What the note says of it.  A folder is noted only when it is ours alone."""
    match item:
        case Folder():
            return [Entry(item.path, "folder")] if item.ours else []
        case File():
            held = before.of(item.path) if before is not None and step.outcome == "kept" else None
            return [held or Entry(item.path, "file", notes.digest(item.content))]
        case Link():
            return [Entry(item.path, "link", item.target)]


def _older(before: Note | None, entries: list[Entry]) -> list[Entry]:
    """What an earlier installation wrote and this one does not: still ours to take away one day."""
    known = {entry.path for entry in entries}
    return [entry for entry in (before.entries if before is not None else ()) if entry.path not in known]
