"""A device converges under everything at once: power cuts, bad versions, changes of mind; a stateful test."""

from __future__ import annotations

from dataclasses import replace

from converging import digest, known
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeswarm.core.rollout.converge import Converge
from edgeswarm.core.rollout.journal import Journal
from edgeswarm.core.rollout.steps import (
    Facts,
    GoBack,
    Known,
    Stage,
    Step,
    Try,
    Wait,
    wish,
)

GOOD, GOLDEN, CRASHES, BRICKS = "good", "fails its golden vectors", "crashes", "takes the device down"


class Device(RuleBasedStateMachine):
    """A device with a disk, a supervisor and a machine; power cuts between any two of its doings.

    disk: (journal bytes, what the supervisor would resume).  Each version is good or bad in one of three ways.
    """

    @initialize()
    def begin(self) -> None:
        self.kinds: dict[str, str] = {digest(1): GOOD}
        self.rollouts: list[Known] = []
        self.now = 0.0
        self.runs, self.status = digest(1), "running"
        self.disk = Journal("a").to_bytes()
        self.seen: set[str] = set()  # digests that were staged well
        self.machine = Converge(Journal("a"))
        self.bricked = 0

    # the world

    @rule(kind=st.sampled_from([GOOD, GOOD, GOLDEN, CRASHES, BRICKS]), downgrade=st.booleans())
    @precondition(lambda self: len(self.rollouts) < 8)
    def starts(self, kind: str, downgrade: bool) -> None:
        number = len(self.rollouts) + 2
        self.rollouts.insert(0, known(number, downgrade=downgrade))
        self.kinds[digest(number)] = kind

    @rule(at=st.integers(0, 7))
    def takes_back(self, at: int) -> None:
        if at < len(self.rollouts):
            self.rollouts[at] = replace(self.rollouts[at], withdrawn=True, why="the operator says so")

    @rule(s=st.sampled_from([0.1, 3.0, 30.0]))
    def waits(self, s: float) -> None:
        self.now += s
        self.settle()

    @rule()
    def loses_power(self) -> None:
        """The journal and the supervisor's own file are all that is left."""
        journal = Journal.from_bytes(self.disk).begun()
        self.disk = journal.to_bytes()
        if journal.back and journal.base is not None:  # the boot hook brings back what ran before, on disk
            self.runs = journal.base.artefact
        self.machine = Converge(journal)
        self.now = 0.0
        self.status = "running" if self.runs else ""

    @rule()
    def ends(self) -> None:
        self.machine.journal = self.machine.journal.ended(self.machine.watched_s(self.now))
        self.disk = self.machine.journal.to_bytes()
        self.loses_power()

    def settle(self) -> None:
        kind = self.kinds.get(self.runs, GOOD)
        if kind == CRASHES and self.status == "running":
            self.status = "failed"
        if kind == BRICKS and self.runs:
            self.bricked += 1
            self.loses_power()

    # the driver

    def facts(self) -> Facts:
        version = f"1.0.{int(self.runs, 16)}" if self.runs else ""
        return Facts(self.runs, version, self.status)

    def look(self) -> Step:
        found = wish(self.rollouts, self.machine.journal)
        step = self.machine.decide(found, self.facts(), self.now)
        self.disk = self.machine.journal.to_bytes()
        return step

    @rule(cut=st.booleans(), trouble=st.booleans())
    def steps(self, cut: bool, trouble: bool) -> None:
        """One step of the driver; cut: the power goes after it was done and before it was told."""
        step = self.look()
        match step:
            case Stage(version):
                bad = self.kinds[version.artefact] == GOLDEN
                if trouble:
                    self.machine.stage_failed(version, "nobody has it", self.now, final=False)
                elif bad:
                    self.machine.stage_failed(version, "golden row 0", self.now, final=True)
                else:
                    self.seen.add(version.artefact)
                    if not cut:
                        self.machine.staged(version)
            case Try(version, base):
                assert self.runs in (base.artefact, version.artefact) or self.machine.journal.base is not None
                if trouble:
                    self.machine.try_failed(version, "no jail", self.now, final=False)
                else:
                    self.runs, self.status = version.artefact, "running"
                    if not cut:
                        self.machine.tried(version, self.facts())
            case GoBack(base):
                if trouble:
                    self.machine.back_failed("no room", self.now)
                else:
                    self.runs, self.status = base.artefact, "running" if base.artefact else ""
                    if not cut:
                        self.machine.went_back()
            case Wait():
                pass
        if cut:
            self.loses_power()
        else:
            self.disk = self.machine.journal.to_bytes()

    @invariant()
    def what_runs_is_known_to_be_sound(self) -> None:
        if not hasattr(self, "kinds"):
            return
        assert self.runs in ("", digest(1)) or self.runs in self.seen
        assert self.kinds.get(self.runs) != GOLDEN
        journal = self.machine.journal
        if self.kinds.get(self.runs) in (CRASHES, BRICKS):
            assert journal.base is not None, "a version that is not proven has something to go back to"
        if journal.current is not None:
            assert self.kinds[journal.current.artefact] == GOOD
        assert (journal.base is None) == (journal.tried is None)

    def teardown(self) -> None:
        """From here on nothing goes wrong any more: the device arrives, and stays there."""
        if not hasattr(self, "kinds"):
            return
        for _ in range(80):
            step = self.look()
            self.steps(cut=False, trouble=False)
            self.now += min(400.0, step.s or 1.0) if isinstance(step, Wait) else 0.0
            self.settle()
        step = self.look()
        row = self.machine.row()
        assert isinstance(step, Wait), step
        assert self.kinds.get(self.runs, GOOD) == GOOD and self.machine.journal.base is None
        newest = next((one for one in self.rollouts if not one.withdrawn), None)
        if newest is not None and row is not None and self.kinds[newest.artefact] == GOOD:
            back = {one.rollout for one in self.rollouts if one.withdrawn} if row.state == "rolled_back" else set()
            assert row.rollout in {newest.rollout, *back}, row  # what was taken back here is told until something comes
            assert row.state in {
                "healthy",
                "refused",  # another version runs that is newer
                "failed",  # cuts and trouble gave it a bad name
                "rolled_back",
            }, row
            if row.state == "healthy" or row.rollout in back:
                assert self.runs == newest.artefact


Device.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestDevice = Device.TestCase
