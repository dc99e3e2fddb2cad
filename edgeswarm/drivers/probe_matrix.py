"""The matrix of `edgeswarm sandbox probe`: rows are probes, columns are ways of making the jails.

Columns run side by side, each with a zygote of its own; what a probe answers depends on its own column only.
"""

from __future__ import annotations

import os
import platform
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from edgeswarm.drivers.jail_sync import SyncHost
from edgeswarm.drivers.probe_host import Answer, Column, Row, columns, guarded, rows, run_column
from edgeswarm.errors import JailError, LocalError

_COLUMNS_AT_ONCE_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Matrix:
    """What was found.  answers: column -> probe -> answer; threads: of a full jail, as /proc tells of them."""

    tier: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    answers: dict[str, dict[str, Answer]]
    threads: tuple[dict[str, int], ...]

    @property
    def open(self) -> list[str]:
        """Probes that worked in the full jail: there must be none."""
        return [row.name for row in self.rows if self.answers["full"][row.name].status != "blocked"]

    @property
    def unguarded(self) -> list[str]:
        """Threads of a full jail that lack a filter or have a privilege: there must be none."""
        return guarded(self.threads)

    def counts(self) -> dict[str, int]:
        """Column -> open probes."""
        return {
            column: sum(answer.status == "open" for answer in self.answers[column].values()) for column in self.columns
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "machine": platform.machine(),
            "kernel": platform.release(),
            "root": os.geteuid() == 0,
            "open": self.counts(),
            "threads": list(self.threads),
            "probes": [
                {"name": row.name, "layer": row.layer, "group": row.group}
                | {column: self.answers[column][row.name].status for column in self.columns}
                | {"how": self.answers["full"][row.name].text}
                for row in self.rows
            ],
        }


def chosen_rows(names: Sequence[str], layer: str) -> list[Row]:
    """Rows by name (shell patterns) and layer.  Raises LocalError when nothing is chosen."""
    known = rows()
    found = [
        row
        for row in known.values()
        if (not names or any(fnmatchcase(row.name, name) for name in names)) and layer in ("", row.layer, row.group)
    ]
    if not found:
        layers = sorted({row.layer for row in known.values()} | {row.group for row in known.values()})
        raise LocalError(f"no probe is chosen; layers and groups are {', '.join(layers)}; names: --list")
    return found


def offered_tier(policy_dir: Path) -> str:
    """What this machine offers.  Raises TierError, JailError."""
    with (
        tempfile.TemporaryDirectory(prefix="edgeswarm-probe-") as cache,
        SyncHost(policy_dir=policy_dir, cache_dir=Path(cache) / "cache", mac_key=os.urandom(32)) as host,
    ):
        return host.tier


def run(
    policy_dir: Path,
    wanted: Sequence[Row],
    picked: Sequence[Column],
    told: Callable[[int], object] = lambda _: None,
) -> Matrix:
    """Run every wanted probe in every picked column.  told: called with 1 after each attempt.

    Nothing of the supervisor's state is touched: code goes to a folder that is removed at the end.
    Raises TierError where nothing can be jailed, JailError where a column's jails cannot be made.
    """
    names = [row.name for row in wanted]
    lock, stopped = threading.Lock(), threading.Event()

    def tell(count: int) -> None:
        if stopped.is_set():
            raise JailError("probing was stopped")
        with lock:
            told(count)

    with tempfile.TemporaryDirectory(prefix="edgeswarm-probe-") as folder:
        host = {"policy_dir": policy_dir, "cache_dir": Path(folder) / "cache", "mac_key": os.urandom(32)}
        at_once = min(_COLUMNS_AT_ONCE_MAX, len(os.sched_getaffinity(0)), len(picked))
        with ThreadPoolExecutor(at_once) as pool:
            try:
                done = list(pool.map(lambda column: run_column(column, names, tell, **host), picked))
            except BaseException:  # ctrl-c, or a column that cannot be made: the others need not go on
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    answers = {column.name: found for column, (found, _) in zip(picked, done, strict=True)}
    threads = next(threads for column, (_, threads) in zip(picked, done, strict=True) if column.name == "full")
    return Matrix(picked[0].tier, tuple(wanted), tuple(answers), answers, tuple(threads))


def pick(offered: str, *, is_root: bool, names: Sequence[str] = ()) -> list[Column]:
    """The columns of these names, the full jail always first.  No names: all but those of one layer alone."""
    known = {column.name: column for column in columns(offered, is_root=is_root)}
    unknown = sorted(set(names) - known.keys())
    if unknown:
        raise LocalError(f"column {unknown[0]}: on this machine expected one of {', '.join(known)}")
    if not names:
        return [column for column in known.values() if not column.name.startswith("only_")]
    return [known[name] for name in dict.fromkeys(("full", *names))]
