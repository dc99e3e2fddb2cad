"""An operator's roster and one that the controller makes at the same moment: neither is lost."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from edgeswarm.app.fleet import roster_put
from edgeswarm.app.fleet.roster_put import put_next
from edgeswarm.errors import RemoteError


class Controller:
    """Holds a roster of now: its version and who made it.  meanwhile: what it makes itself before each of the next
    puts.  deaf: an answer is lost after the put."""

    def __init__(self, meanwhile: int = 0, *, deaf: bool = False, refuses: bool = False) -> None:
        self.version, self.data = 3, b"controller 3"
        self.meanwhile, self.deaf, self.refuses, self.puts = meanwhile, deaf, refuses, 0

    def follow(self, what: str, **args: Any) -> Iterator[Any]:
        raise NotImplementedError

    def call(self, what: str, **args: Any) -> Any:
        if what == "roster.get":
            return {"data": self.data}
        self.puts += 1
        if self.meanwhile:
            self.meanwhile -= 1
            self.version += 1
            self.data = b"controller %d" % self.version
        version = int(args["data"].split()[1])
        if self.refuses or version != self.version + 1:
            raise RemoteError(f"roster {version}: after version {self.version}")
        self.version, self.data = version, args["data"]
        if self.deaf:
            raise RemoteError("no answer")
        return {}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rosters are b"who version": what is signed how is told elsewhere."""

    def now(link: Any, root_public: bytes) -> Any:
        data = link.call("roster.get")["data"]
        return SimpleNamespace(version=int(data.split()[1]), data=data)

    monkeypatch.setattr(roster_put, "_now", now)


def after(roster: Any) -> Any:
    return SimpleNamespace(version=roster.version + 1, data=b"operator %d" % (roster.version + 1))


@pytest.mark.parametrize("meanwhile", [0, 1, 4])
def test_it_is_made_anew_after_one_that_came_meanwhile(meanwhile: int) -> None:
    link = Controller(meanwhile)
    assert put_next(link, b"", after).data == link.data == b"operator %d" % (4 + meanwhile)
    assert link.puts == 1 + meanwhile


def test_who_is_always_too_late_is_told_in_the_end() -> None:
    link = Controller(1_000)
    with pytest.raises(RemoteError, match="roster 8: after version 8"):
        put_next(link, b"", after)
    assert link.puts == 5


def test_what_is_refused_for_itself_is_asked_once() -> None:
    link = Controller(refuses=True)
    with pytest.raises(RemoteError, match="roster 4"):
        put_next(link, b"", after)
    assert link.puts == 1


def test_what_was_taken_counts_although_the_answer_was_lost() -> None:
    link = Controller(deaf=True)
    assert put_next(link, b"", after).data == link.data == b"operator 4"
    assert link.puts == 1


def test_nothing_is_put_where_nothing_changes() -> None:
    link = Controller()
    assert put_next(link, b"", lambda _: None).data == b"controller 3"
    assert link.puts == 0
