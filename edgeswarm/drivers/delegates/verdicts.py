"""What contests found, kept on disk: file, machine and delegates -> who computes, and the figures.

Decides nothing.  A verdict is found again only for the same key, which names everything that could change it; a file
that cannot be read counts as empty: the contest is held again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_args

from edgeswarm.drivers.delegates.contest import WASM, Score
from edgeswarm.drivers.delegates.runtimes import Name
from edgeswarm.drivers.jail_cache import Binding
from edgeswarm.limits import DELEGATE_VERDICTS_BYTES_MAX, DELEGATE_VERDICTS_MAX

CONTESTANTS: Final = (WASM, *get_args(Name))
_FORM: Final = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """choice: `wasm` or a delegate's name.  at: seconds since 1970."""

    choice: str
    scores: tuple[Score, ...]
    at: float

    def to_json(self) -> dict[str, Any]:
        return {"choice": self.choice, "at": self.at, "scores": [asdict(score) for score in self.scores]}

    @classmethod
    def from_json(cls, tree: Any) -> Verdict:
        """Raises KeyError, TypeError, ValueError; the last also for what no contest finds: logs and status show it."""
        scores = tuple(_score(one) for one in tree["scores"])
        if len({score.name for score in scores}) != len(scores) or tree["choice"] not in CONTESTANTS:
            raise ValueError("scores: expected one of each, and a choice of them")
        return cls(tree["choice"], scores, _number(tree["at"]))


def _score(tree: Any) -> Score:
    if tree["name"] not in CONTESTANTS:
        raise ValueError(f"name: expected one of {', '.join(CONTESTANTS)}")
    why = str(tree["why"])[:500].encode(errors="replace").decode()  # half a character of JSON is none of a log
    return Score(tree["name"], None if tree["us"] is None else _number(tree["us"]), why)


def _number(value: Any) -> float:
    number = float(value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"expected a number of at least 0, found {number}")
    return number


def key_of(artefact: str, machine: Binding, identities: Sequence[str], settings: Sequence[object]) -> str:
    """artefact: SHA-256 of the agent file.  identities: of the delegates.  settings: what else counts."""
    parts = [_FORM, artefact, asdict(machine), list(identities), [str(one) for one in settings]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Verdicts:
    """path: of one JSON file, this device's own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> Verdict | None:
        return self._read().get(key)

    def put(self, key: str, verdict: Verdict) -> None:
        """The oldest make room.  Raises OSError."""
        known = self._read()
        known.pop(key, None)
        known[key] = verdict
        kept = sorted(known, key=lambda one: known[one].at)[-DELEGATE_VERDICTS_MAX:]
        tree = {"form": _FORM, "verdicts": {one: known[one].to_json() for one in kept}}
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(json.dumps(tree).encode())
        fresh.replace(self._path)

    def _read(self) -> dict[str, Verdict]:
        try:
            with self._path.open("rb") as file:
                text = file.read(DELEGATE_VERDICTS_BYTES_MAX + 1)
            if len(text) > DELEGATE_VERDICTS_BYTES_MAX:
                return {}
            tree = json.loads(text)
            if tree["form"] != _FORM:
                return {}
            return {str(key): Verdict.from_json(one) for key, one in tree["verdicts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return {}
