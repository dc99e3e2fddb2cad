"""`edgeswarm daemon install` and `uninstall`: a plan, shown or carried out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import output
from edgeswarm.errors import LocalError, PermissionDeniedError

if TYPE_CHECKING:
    from edgeswarm.drivers.service.image import Image
    from edgeswarm.drivers.service.perform import Step
    from edgeswarm.drivers.service.plan import Init, Plan, Wish

_INITS = ("systemd", "openrc", "procd", "plain")
_BOARDS = ("raspberry-pi", "jetson")
_PROCD_STATE = "/srv/edgeswarm"  # /var is in memory on OpenWrt

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    metavar="DIR",
    help="Install into the image whose file system lies there; no command of it is run.",
)
init_option = click.option(
    "--init", "init", type=click.Choice(_INITS), help="Init system (default: the one that is found)."
)
user_option = click.option(
    "--user", "of_user", is_flag=True, help="A service of yours alone (systemd --user); no root."
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show every file with its content, and every command; change nothing."
)


@click.command()
@root_option
@init_option
@user_option
@click.option("--program", metavar="PATH", help="The launcher as the service calls it (default: this one).")
@click.option("--state", metavar="DIR", help="State directory (default: /var/lib/edgeswarm; OpenWrt: /srv/edgeswarm).")
@click.option(
    "--board", type=click.Choice(_BOARDS), help="Open this board's devices to agents: GPU, industrial I/O (systemd)."
)
@click.option(
    "--join-file",
    metavar="PATH",
    help="Join a fleet at boot with this file when it appears (systemd; docs/install.md).",
)
@click.option("--no-start", is_flag=True, help="Start it at the next boot, not now.")
@click.option("--image", "for_image", is_flag=True, help="Refuse when keys of one device lie here; start nothing.")
@click.option("--force", is_flag=True, help="Overwrite units and scripts that somebody changed.")
@dry_run_option
@output.json_option
def install(
    root: Path,
    init: Init | None,
    of_user: bool,
    program: str | None,
    state: str | None,
    board: str | None,
    join_file: str | None,
    no_start: bool,
    for_image: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Install the supervisor as a service: an account of its own, a state directory of mode 0700, a hardened unit.

    Doing it again changes nothing.  A unit that you changed is refused by name: put changes into a drop-in.

    \b
    Examples:
      edgeswarm daemon install --dry-run
      edgeswarm daemon install
      edgeswarm daemon install --board raspberry-pi
      edgeswarm daemon install --root /mnt/image --image
      edgeswarm daemon install --user
    """
    from edgeswarm.drivers.service.image import Image
    from edgeswarm.drivers.service.perform import identity, perform
    from edgeswarm.drivers.service.plan import STATE, Wish, board_of, detect, make

    image = Image(root)
    found = init or detect(image.root)
    default_state = _PROCD_STATE if found == "procd" else STATE
    wish = Wish(
        init=found,
        program=program or program_of(image),
        state=state or default_state,
        board=board,
        join_file=join_file,
        home=home_of(image) if of_user else None,
        start=not (no_start or for_image),
    )
    plan = make(wish)
    if not dry_run:
        _may_install(image, of_user=of_user)
    if for_image and (left := identity(image, plan.state)):
        raise LocalError(
            f"an image must hold no keys: every copy of it would be the same device; remove {', '.join(left)}"
        )
    steps = perform(plan, image, program=wish.program, dry_run=dry_run, force=force)
    hints = [*plan.hints, *_hints(image, wish, board_of(image.root))]
    tell(plan, wish, steps, hints, dry_run=dry_run, as_json=as_json)


@click.command()
@root_option
@init_option
@user_option
@click.option("--purge", is_flag=True, help="Remove state, settings and the account too: this device's keys are lost.")
@dry_run_option
@output.json_option
def uninstall(root: Path, init: Init | None, of_user: bool, purge: bool, dry_run: bool, as_json: bool) -> None:
    """Stop the service and take away what `install` made, file by file, from its note.

    State, settings and what you changed stay, each by name; --purge removes them.

    \b
    Examples:
      edgeswarm daemon uninstall --dry-run
      edgeswarm daemon uninstall
      edgeswarm daemon uninstall --purge
    """
    from edgeswarm.drivers.service import note
    from edgeswarm.drivers.service.image import Image
    from edgeswarm.drivers.service.plan import Wish, detect, make
    from edgeswarm.drivers.service.remove import remove

    image = Image(root)
    home = home_of(image) if of_user else None
    plan = make(Wish(init=init or detect(image.root), home=home))
    written = note.read(image, plan.note)
    if written is not None:
        wish = Wish(init=written.init, program=written.program, state=written.state, home=home)
        plan = make(wish)
    if not dry_run:
        _may_install(image, of_user=of_user)
    steps = remove(plan, image, purge=purge, dry_run=dry_run)
    output.emit(
        {"init": plan.init, "dry_run": dry_run, "steps": [_step(step) for step in steps]},
        as_json=as_json,
        text=lambda: "\n".join(_lines(steps)),
    )


# --- what was asked for -----------------------------------------------------------------------------------------------


def program_of(image: Image) -> str:
    """How the service will call this program: a bundle's launcher, or the script that runs now."""
    from edgeswarm.drivers.service.plan import PROGRAM
    from edgeswarm.drivers.service.prefix import Prefix

    prefix = Prefix.of_this_program()
    if prefix is not None:
        path = prefix.launcher
        inside = path.relative_to(image.root) if path.is_relative_to(image.root) else path
        return str(Path("/") / inside)
    if not image.is_live:
        return PROGRAM  # an image has its own
    path = Path(sys.argv[0]).resolve()
    return str(path) if path.name == "edgeswarm" and os.access(path, os.X_OK) else PROGRAM


def home_of(image: Image) -> str:
    """Raises LocalError: a user's service is of a user who is here."""
    if not image.is_live:
        raise LocalError("--user: expected no --root: an image has no user who could start it")
    if os.geteuid() == 0:
        raise LocalError(
            "--user: expected an ordinary user, found root; root installs the machine's service without it"
        )
    return str(Path.home())


def _may_install(image: Image, *, of_user: bool) -> None:
    if image.is_live and not of_user and os.geteuid() != 0:
        raise PermissionDeniedError(
            "only root may install a service of the machine: run it with sudo or as root, look at --dry-run first, or "
            "install one for yourself with --user"
        )


def _hints(image: Image, wish: Wish, board: str | None) -> list[str]:
    hints: list[str] = []
    if board is not None and wish.board is None and wish.init == "systemd" and not wish.of_user:
        hints.append(f"this is a {board}: --board {board} opens its GPU and industrial I/O to agents")
    if not image.at(wish.program, follow=True).exists():
        hints.append(f"{wish.program} is not there yet: install a bundle (make bundle) before the service starts")
    if not image.is_live and os.geteuid() != 0:
        hints.append("not run as root: every file belongs to you; give them to root before the image boots")
    return hints


# --- showing ----------------------------------------------------------------------------------------------------------


def tell(plan: Plan, wish: Wish, steps: list[Step], hints: list[str], *, dry_run: bool, as_json: bool) -> None:
    """The steps; in a dry run with the content of every file; and systemd's score of the unit."""
    from edgeswarm.drivers.service.manager import exposure
    from edgeswarm.drivers.service.plan import File

    scored = [item for item in plan.items if isinstance(item, File) and "/systemd/" in item.path]
    score = exposure(scored) if plan.init == "systemd" and not wish.of_user else None
    contents = {item.path: item.content.decode() for item in plan.items if isinstance(item, File)} if dry_run else {}
    found: dict[str, Any] = {
        "init": plan.init,
        "program": wish.program,
        "state": plan.state,
        "account": plan.account,
        "dry_run": dry_run,
        "steps": [_step(step) | ({"content": contents[step.what]} if step.what in contents else {}) for step in steps],
        "exposure": None if score is None else {"score": score[0], "word": score[1]},
        "hints": hints,
    }

    def text() -> str:
        lines = [f"{plan.init}: {wish.program}, state in {plan.state}", ""]
        lines += ["nothing was changed; this is what would be done:", ""] if dry_run else []
        for step, line in zip(steps, _lines(steps), strict=True):
            lines.append(line)
            if step.what in contents:
                lines += [f"    | {row}".rstrip() for row in contents[step.what].splitlines()]
        if score is not None:
            lines += ["", f"systemd-analyze security: {score[0]} of 10 ({score[1]}); 0 is locked, 10 is open"]
        lines += [f"note: {hint}" for hint in hints]
        return "\n".join(lines)

    output.emit(found, as_json=as_json, text=text)


def _step(step: Step) -> dict[str, str]:
    return {"kind": step.kind, "what": step.what, "outcome": step.outcome, "detail": step.detail}


def _lines(steps: list[Step]) -> list[str]:
    return [output.plain(f"{step.outcome:9} {step.kind:8} {step.what}  {step.detail}".rstrip()) for step in steps]
