"""`edgeswarm top`: the supervisor's status, redrawn in place; plain ANSI, no curses.

On a terminal it takes the alternate screen and gives it back whatever happens; q, ctrl-c or the end of the supervisor
end it.  Where standard output is no terminal it prints one picture an interval; with --json one line of JSON each.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import common, output, view
from edgeswarm.errors import RemoteError

if TYPE_CHECKING:
    from edgeswarm.drivers.control import ControlClient

_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _LINE_END, _SCREEN_END = "\x1b[H", "\x1b[K\n", "\x1b[J"
_QUIT = b"qQ\x03\x04"


@click.command()
@output.state_option
@output.config_option
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds between pictures."
)
@click.option("--count", type=click.IntRange(1), help="End after so many pictures.")
@output.json_option
def top(state: Path | None, config_file: Path | None, interval: float, count: int | None, as_json: bool) -> None:
    """Watch streams, scores and decisions live; q quits.

    Where standard output is no terminal, one picture after the other is printed.

    \b
    Examples:
      edgeswarm top
      edgeswarm top --json --count 3 | jq .totals
    """
    with common.connect(state, config_file) as client:
        try:
            if as_json or not output.is_terminal():
                _print_each(client, interval, count, as_json=as_json)
            else:
                seen: list[dict[str, Any] | None] = [None]

                def picture() -> list[str]:
                    before, seen[0] = seen[0], _status(client)
                    assert seen[0] is not None
                    return view.lines_of(seen[0], before)

                redraw(picture, interval, count)
        except KeyboardInterrupt:
            pass  # how one leaves it


def _status(client: ControlClient) -> dict[str, Any]:
    from edgeswarm.drivers.control import ControlError, NotRunningError

    try:
        status: dict[str, Any] = client.call("status")
    except ControlError:
        raise
    except (RemoteError, OSError) as error:
        raise NotRunningError(f"the supervisor has ended ({error})") from None
    return status


def _print_each(client: ControlClient, interval: float, count: int | None, *, as_json: bool) -> None:
    before = None
    for shown in itertools.count(1):
        now = _status(client)
        click.echo(json.dumps(now, default=str) if as_json else "\n".join([*view.lines_of(now, before), ""]))
        if shown == count:
            return
        before = now
        time.sleep(interval)


def redraw(picture: Callable[[], list[str]], interval: float, count: int | None) -> None:
    """Draw what `picture` gives in place, each `interval` seconds, until somebody leaves or `count` is reached."""
    with _screen() as keyboard:
        for shown in itertools.count(1):
            found = picture()
            size = shutil.get_terminal_size()
            lines = view.fit(found, columns=size.columns, rows=size.lines - 2)
            footer = f"every {interval:g} s; q quits"[: size.columns]
            sys.stdout.write(_HOME + "".join(line + _LINE_END for line in lines) + _LINE_END + footer + _SCREEN_END)
            sys.stdout.flush()
            if shown == count or _quit_within(interval, keyboard):
                return


def _quit_within(seconds: float, keyboard: int | None) -> bool:
    """Wait; True as soon as somebody asks to leave.  keyboard: descriptor of a terminal, None when there is none."""
    if keyboard is None:
        time.sleep(seconds)
        return False
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([keyboard], [], [], left)[0]:
            keys = os.read(keyboard, 64)
            if not keys or any(key in _QUIT for key in keys):
                return True
    return False


@contextmanager
def _screen() -> Iterator[int | None]:
    """The alternate screen without cursor, and keys without echo and line by line; all given back at the end."""
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    kept = termios.tcgetattr(keyboard) if keyboard is not None else None
    try:
        if keyboard is not None:
            tty.setcbreak(keyboard)
        sys.stdout.write(_ENTER)
        yield keyboard
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if keyboard is not None and kept is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, kept)
