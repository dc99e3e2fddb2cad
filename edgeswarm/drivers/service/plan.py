"""What an installation consists of: folders, files, links, an account, and the commands that make them count.

A plan is data: `--dry-run` prints it, `perform` carries it out, and both see the same.  Paths are those of the machine
that will run it; where its root is mounted is for `perform` to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from edgeswarm.assets import asset
from edgeswarm.drivers.service.prefix import DEFAULT
from edgeswarm.errors import ConfigError, LocalError

Init = Literal["systemd", "openrc", "procd", "plain"]
INITS: tuple[Init, ...] = ("systemd", "openrc", "procd", "plain")
BOARDS = ("raspberry-pi", "jetson")
"""Boards with devices that the unit does not open by itself; of systemd only, which alone closes them first."""
USER = "edgeswarm"
NAME = "edgeswarm"
CONFIG = "/etc/edgeswarm/edgeswarm.toml"
STATE = "/var/lib/edgeswarm"
PROGRAM = str(DEFAULT / "bin" / "edgeswarm")
NOTE = "/etc/edgeswarm/installed.json"
JOIN_UNIT = "edgeswarm-join.service"
_HIDDEN = ("/home", "/root", "/run/user")  # ProtectHome= empties them
_PATH = re.compile(r"/[A-Za-z0-9._+-]+(/[A-Za-z0-9._+-]+)*")

SETTINGS = """\
# Settings of the EdgeSwarm supervisor; `edgeswarm config show` says which are in force and where each comes from.
# Everybody on this machine may read this file: secrets go elsewhere.
state = "{state}"
runtime = "{runtime}"
#profile = "default"
#device = "press-7"
"""


@dataclass(frozen=True, slots=True)
class Folder:
    """owner: an account's name.  ours: uninstalling removes it once it is empty."""

    path: str
    mode: int = 0o755
    owner: str = "root"
    ours: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """keep: what is there already is the operator's, and stays."""

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Command:
    """words: run on the machine itself, never for an image.  optional: a failure is told and the rest goes on."""

    words: tuple[str, ...]
    about: str
    optional: bool = False

    @property
    def text(self) -> str:
        return " ".join(self.words)


Item = Folder | File | Link


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for.  program: the launcher, as the service will call it."""

    init: Init
    program: str = PROGRAM
    config: str = CONFIG
    state: str = STATE
    board: str | None = None
    join_file: str | None = None
    home: str | None = None
    start: bool = True

    @property
    def of_user(self) -> bool:
        """A service of one user (systemd --user); `home` is that user's."""
        return self.home is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """items in the order in which they are made.  stop, gone: before and after they are removed.

    after: when they are made; then `restart` when any of them changed, else `start`; neither when nobody wants it.
    """

    init: Init
    account: str | None
    items: tuple[Item, ...]
    after: tuple[Command, ...]
    start: tuple[Command, ...]
    restart: tuple[Command, ...]
    stop: tuple[Command, ...]
    gone: tuple[Command, ...]
    state: str
    note: str
    hints: tuple[str, ...] = ()

    @property
    def units(self) -> tuple[File, ...]:
        return tuple(item for item in self.items if isinstance(item, File) and item.path.endswith(".service"))


def make(wish: Wish) -> Plan:
    """Raises LocalError for what cannot be installed."""
    for what, path in (("program", wish.program), ("config", wish.config), ("state", wish.state)):
        if not _PATH.fullmatch(path) or any(part in ("..", ".") for part in path.split("/")):
            raise LocalError(f"{what}: expected an absolute path of letters, digits and . _ + -, found {path!r}")
    if wish.of_user:
        return _of_user(wish)
    hidden = [top for top in _HIDDEN if wish.init == "systemd" and PurePosixPath(wish.program).is_relative_to(top)]
    if hidden:
        raise LocalError(
            f"program {wish.program}: a service sees nothing below {hidden[0]} (ProtectHome=yes); install a bundle "
            f"into {DEFAULT} (make bundle), name another --program, or install for one user with --user"
        )
    if (wish.board or wish.join_file) and wish.init != "systemd":
        what = f"--board {wish.board}" if wish.board else "--join-file"
        raise LocalError(f"{what}: expected systemd, found {wish.init}; see firmware_configs/ for what to do by hand")
    return _MAKERS[wish.init](wish)


# --- one init system each ---------------------------------------------------------------------------------------------


def _systemd(wish: Wish) -> Plan:
    units = "/etc/systemd/system"
    unit = _filled("linux/systemd/edgeswarm.service", wish)
    items: list[Item] = [
        *_common(wish),
        File("/etc/sysusers.d/edgeswarm.conf", _filled("linux/sysusers.d/edgeswarm.conf", wish)),
        File(f"{units}/{NAME}.service", unit),
    ]
    if wish.board is not None:
        if wish.board not in BOARDS:
            raise LocalError(f"board: expected one of {', '.join(BOARDS)}, found {wish.board!r}")
        drop_in = f"{units}/{NAME}.service.d"
        items += [
            Folder(drop_in, ours=True),
            File(
                f"{drop_in}/20-{wish.board}.conf",
                asset("firmware_configs", f"{wish.board}/systemd/devices.conf").read_bytes(),
            ),
        ]
    items += [Folder(f"{units}/multi-user.target.wants")]
    items += [Link(f"{units}/multi-user.target.wants/{NAME}.service", f"../{NAME}.service")]
    if wish.join_file is not None:
        items += [
            File(f"{units}/{JOIN_UNIT}", _filled("linux/systemd/edgeswarm-join.service", wish)),
            Link(f"{units}/multi-user.target.wants/{JOIN_UNIT}", f"../{JOIN_UNIT}"),
        ]
    reload = Command(("systemctl", "daemon-reload"), "systemd reads the units")
    return _plan(
        wish,
        items,
        ("systemctl", "{}", NAME),
        after=(reload,),
        stop=(Command(("systemctl", "stop", NAME), "ends it, with every jail", optional=True),),
        gone=(reload, Command(("systemctl", "reset-failed", NAME), "forgets how it ended", optional=True)),
    )


def _openrc(wish: Wish) -> Plan:
    items: list[Item] = [
        *_common(wish),
        Folder("/etc/init.d"),
        Folder("/etc/conf.d"),
        File(f"/etc/init.d/{NAME}", _filled("openrc/edgeswarm.initd", wish), 0o755),
        File(f"/etc/conf.d/{NAME}", _filled("openrc/edgeswarm.confd", wish), keep=True),
        Folder("/etc/logrotate.d"),
        File(f"/etc/logrotate.d/{NAME}", _filled("openrc/edgeswarm.logrotate", wish)),
        Folder("/etc/runlevels/default"),
        Link(f"/etc/runlevels/default/{NAME}", f"/etc/init.d/{NAME}"),
    ]
    stop = Command(("rc-service", "--ifstarted", NAME, "stop"), "ends it, with every jail", optional=True)
    return _plan(wish, items, ("rc-service", NAME, "{}"), stop=(stop,))


def _procd(wish: Wish) -> Plan:
    script = f"/etc/init.d/{NAME}"
    items: list[Item] = [
        *_common(wish),
        Folder("/etc/init.d"),
        File(script, _filled("openwrt/edgeswarm.init", wish), 0o755),
        Folder("/etc/rc.d"),
        Link(f"/etc/rc.d/S95{NAME}", f"../init.d/{NAME}"),
        Link(f"/etc/rc.d/K10{NAME}", f"../init.d/{NAME}"),
    ]
    stop = Command((script, "stop"), "ends it, with every jail", optional=True)
    hints = ("/var is in memory on OpenWrt: name a --state on flash or on a disk, or every restart begins empty",)
    return _plan(
        wish,
        items,
        (script, "{}"),
        stop=(stop,),
        hints=hints if wish.state.startswith("/var/") else (),
    )


def _plain(wish: Wish) -> Plan:
    script = f"/etc/init.d/{NAME}"
    items: list[Item] = [
        *_common(wish),
        Folder("/etc/init.d"),
        File(script, _filled("plain/edgeswarm.sh", wish), 0o755),
    ]
    for level, name in ((2, "S95"), (3, "S95"), (4, "S95"), (5, "S95"), (0, "K05"), (1, "K05"), (6, "K05")):
        items += [Folder(f"/etc/rc{level}.d"), Link(f"/etc/rc{level}.d/{name}{NAME}", f"../init.d/{NAME}")]
    stop = Command((script, "stop"), "ends it, with every jail", optional=True)
    hint = f"where /etc/rc2.d is not run at boot, have this run then: {script} start"
    return _plan(
        wish,
        items,
        (script, "{}"),
        stop=(stop,),
        hints=(hint,),
    )


def _of_user(wish: Wish) -> Plan:
    """A unit of one user's own manager: no account, no other user's files, the XDG folders."""
    if wish.init != "systemd":
        raise LocalError(f"--user: expected systemd, found {wish.init}; start `edgeswarm run` from where you log in")
    if wish.board or wish.join_file:
        raise LocalError(
            "--user: --board and --join-file are the machine's, not one user's; run it as root without --user"
        )
    units = f"{wish.home}/.config/systemd/user"
    unit = _replace(asset("firmware_configs", "linux/user/edgeswarm.service").read_bytes(), {PROGRAM: wish.program})
    items: tuple[Item, ...] = (
        Folder(f"{wish.home}/.config/edgeswarm", 0o700),
        Folder(f"{units}/default.target.wants"),
        File(f"{units}/{NAME}.service", unit),
        Link(f"{units}/default.target.wants/{NAME}.service", f"../{NAME}.service"),
    )
    reload = Command(("systemctl", "--user", "daemon-reload"), "systemd reads the unit")
    start, restart = _begin(wish, ("systemctl", "--user", "{}", NAME))
    return Plan(
        init="systemd",
        account=None,
        items=items,
        after=(reload,),
        start=start,
        restart=restart,
        stop=(Command(("systemctl", "--user", "stop", NAME), "ends it, with every jail", optional=True),),
        gone=(reload,),
        state=f"{wish.home}/.local/state/edgeswarm",
        note=f"{wish.home}/.config/edgeswarm/installed.json",
        hints=("so that it runs while you are not logged in: loginctl enable-linger",),
    )


_MAKERS: dict[Init, Callable[[Wish], Plan]] = {
    "systemd": _systemd,
    "openrc": _openrc,
    "procd": _procd,
    "plain": _plain,
}


# --- what they share --------------------------------------------------------------------------------------------------


def _common(wish: Wish) -> tuple[Item, ...]:
    """Settings, state, and where a trial is noted, for the account of the service."""
    runtime = "/var/run/edgeswarm" if wish.init == "procd" else "/run/edgeswarm"  # OpenWrt has no /run
    made: list[Item] = [
        Folder(str(PurePosixPath(wish.config).parent), ours=True),
        File(wish.config, SETTINGS.format(state=wish.state, runtime=runtime).encode(), keep=True),
        Folder(wish.state, 0o700, USER),
    ]
    prefix = PurePosixPath(wish.program).parent.parent
    if (PurePosixPath(wish.program).parent.name, prefix.name) == ("bin", "edgeswarm"):
        made.append(Folder(f"{prefix}/var", 0o755, USER))
    return tuple(made)


def _plan(
    wish: Wish,
    items: list[Item],
    words: tuple[str, ...],
    *,
    after: tuple[Command, ...] = (),
    stop: tuple[Command, ...],
    gone: tuple[Command, ...] = (),
    hints: tuple[str, ...] = (),
) -> Plan:
    """words: what starts the service, with {} for the verb."""
    start, restart = _begin(wish, words)
    return Plan(wish.init, USER, tuple(items), after, start, restart, stop, gone, wish.state, NOTE, hints)


def _begin(wish: Wish, words: tuple[str, ...]) -> tuple[tuple[Command, ...], tuple[Command, ...]]:
    """(to start it, to start it anew): nothing where nobody wants it started."""
    if not wish.start:
        return (), ()

    def command(verb: str, about: str) -> tuple[Command, ...]:
        return (Command(tuple(word.format(verb) for word in words), about),)

    return command("start", "starts it, if it does not run"), command("restart", "starts it with what is new")


def _filled(name: str, wish: Wish) -> bytes:
    """A shipped unit or script with the paths of this installation.  Nothing else in it changes."""
    found = asset("firmware_configs", name).read_bytes()
    replaced = {PROGRAM: wish.program, CONFIG: wish.config}
    prefix = str(PurePosixPath(wish.program).parent.parent)
    replaced |= {f"{DEFAULT}/var": f"{prefix}/var", f"file:{DEFAULT}": f"file:{prefix}"}
    if wish.join_file is not None:
        replaced["/boot/firmware/edgeswarm/join.toml"] = wish.join_file
    below = PurePosixPath(wish.state)
    if wish.state != STATE:
        if below.parent == PurePosixPath("/var/lib"):
            replaced["StateDirectory=edgeswarm\n"] = f"StateDirectory={below.name}\n"
        else:  # systemd makes state below /var/lib only
            replaced["StateDirectory=edgeswarm\nStateDirectoryMode=0700\n"] = f"ReadWritePaths={wish.state}\n"
        replaced[STATE] = wish.state
    return _replace(found, replaced)


def _replace(text: bytes, replaced: dict[str, str]) -> bytes:
    """All at once, longest first, so that what was put in is not replaced again.  Raises ConfigError for no UTF-8."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"a shipped unit is no UTF-8: {error}") from None
    pattern = "|".join(re.escape(old) for old in sorted(replaced, key=len, reverse=True))
    return re.sub(pattern, lambda found: replaced[found[0]], decoded).encode()


def detect(root: Path = Path("/")) -> Init:
    """The init system of the machine, or of the image, whose file system is at `root`.

    Of the running machine: what runs as process 1.  Of an image: what /sbin/init leads to, then what is installed.
    """

    def has(*paths: str) -> bool:
        return any((root / path).exists() or (root / path).is_symlink() for path in paths)

    if root == Path("/"):
        if has("run/systemd/system"):
            return "systemd"
        if has("run/openrc/softlevel"):
            return "openrc"
        if has("run/procd.pid", "tmp/run/procd.pid") or (has("sbin/procd") and has("etc/openwrt_release")):
            return "procd"
        return "openrc" if has("sbin/openrc-run") and not has("lib/systemd/systemd") else "plain"
    init = root / "sbin" / "init"
    target = str(init.readlink()) if init.is_symlink() else ""
    if "systemd" in target:
        return "systemd"
    if has("sbin/procd"):
        return "procd"
    if has("sbin/openrc-run", "usr/sbin/openrc-run"):
        return "openrc"
    return "systemd" if has("lib/systemd/systemd", "usr/lib/systemd/systemd") else "plain"


def board_of(root: Path = Path("/")) -> str | None:
    """A board whose devices could be opened: what its device tree calls itself.  None: another machine."""
    try:
        model = (root / "proc" / "device-tree" / "model").read_bytes()[:200].decode("utf-8", "replace")
    except OSError:
        return None
    return "raspberry-pi" if "Raspberry Pi" in model else "jetson" if "Jetson" in model else None
