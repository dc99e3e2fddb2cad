"""How commands print: tables for people, JSON for scripts, errors on standard error.

Names, labels and texts come from agent files and peers: a terminal gets none of their control characters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """`--json`: the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(function)


def state_option(function: F) -> F:
    """`--state DIR`: the parameter `state` (Path or None)."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="EDGESWARM_STATE",
        help="State directory of the supervisor (root: /var/lib/edgeswarm, else ~/.local/state/edgeswarm).",
    )(function)


def fleet_option(function: F) -> F:
    """`--fleet DIR`: the parameter `fleet_dir` (Path or None)."""
    return click.option(
        "--fleet",
        "fleet_dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="EDGESWARM_FLEET",
        help="The fleet's directory (root: /var/lib/edgeswarm-fleet, else ~/.local/share/edgeswarm/fleet).",
    )(function)


def config_option(function: F) -> F:
    """`-c FILE`: the parameter `config_file` (Path or None)."""
    return click.option(
        "-c",
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Settings file (root: /etc/edgeswarm/edgeswarm.toml, else ~/.config/edgeswarm/edgeswarm.toml).",
    )(function)


def emit(value: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print `value` as JSON, or what `text()` makes of it."""
    click.echo(rendered(value, as_json=as_json, text=text))


def rendered(value: Any, *, as_json: bool, text: Callable[[], str]) -> str:
    return json.dumps(value, indent=2, default=str) if as_json else text()


def error(text: str, *, as_json: bool, kind: str) -> None:
    """One error, on standard error."""
    if as_json:
        click.echo(json.dumps({"error": {"kind": kind, "text": text}}), err=True)
    else:
        click.echo(click.style("error: ", fg="red", bold=True) + plain(text, keep="\n"), err=True)


def note(text: str) -> None:
    """Something worth knowing that is no result: on standard error, so that standard output stays what it is."""
    click.echo(plain(text, keep="\n"), err=True)


def warn(text: str) -> None:
    click.echo(click.style("warning: ", fg="yellow", bold=True) + plain(text, keep="\n"), err=True)


def confirm(question: str) -> None:
    """Ask on standard error.  Raises click.Abort for no, LocalError where nobody is there to answer."""
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError) or sys.stdin.isatty():  # somebody said no, or ctrl-c
            raise
        from edgeswarm.errors import LocalError

        click.echo(err=True)
        raise LocalError("no terminal to ask on; --yes answers") from None


def plain(text: str, *, keep: str = "") -> str:
    """`text` without what a terminal would act upon."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in keep else "?" for c in text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> str:
    """Plain columns, two blanks between them.  right: indices of columns of numbers."""
    cells = [[plain(str(cell)) for cell in row] for row in rows]
    widths = [max([len(header[i]), *(len(row[i]) for row in cells)]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)
        ).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *(line(row) for row in cells)])


def is_terminal() -> bool:
    return sys.stdout.isatty()


def size(size_bytes: float) -> str:
    """1.5 MiB, 12 KiB."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{int(size_bytes)} B"


@contextmanager
def progress(length: int, label: str, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while it is a terminal, nothing otherwise; yields what to call with each step's size."""
    if quiet or length <= 0 or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update
