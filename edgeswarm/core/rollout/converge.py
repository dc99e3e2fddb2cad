"""How one agent of a device converges to what rollouts want of it: what is wanted + what runs + journal -> next step.

    wanted  ->  Stage (fetch, verify, golden vectors in a jail)  ->  Try (swap or deploy)  ->  watched for healthy_s
            ->  proven; anything else: GoBack, and the rollout is not tried again here

Level-triggered: `decide` looks at everything and says the one thing to do next; the driver writes the journal whenever
it changed, *before* it does that thing, and tells what came of it.  So a power cut at any point repeats at most one
step, and each of them may be repeated.
Decides nothing about the network: a device whose broker is gone goes on with what it knows, and goes back by itself.
Invariants: what ran before stays on disk until the new version has proved itself; nothing is swapped before it was
verified and has computed its golden vectors; while the safety stop holds nothing is brought up.
Pure: `now` (seconds, monotonic) is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeswarm.core.rollout.journal import Journal, Version
from edgeswarm.core.rollout.steps import Facts, GoBack, Known, Row, Stage, State, Step, Try, Wait, Wish, version_tuple
from edgeswarm.limits import (
    ROLLOUT_BEFORE_MAX,
    ROLLOUT_FAULTS_MAX,
    ROLLOUT_LIVES,
    ROLLOUT_RETRY_S,
    ROLLOUT_RETRY_S_MAX,
    ROLLOUT_TRIES,
    ROLLOUT_WHY_CHARS_MAX,
)

_BEATEN = frozenset({"failed", "quarantined", "paused"})
"""Statuses of an agent that end its trial; "paused" is its breaker, which opens after many faults."""


@dataclass(frozen=True, slots=True)
class _Watch:
    """The trial as this life of the process has seen it.  since: running without a break."""

    version: Version
    restarts: int
    faults: int
    since: float | None = None
    broken: int = 0  # restarts seen


class Converge:
    """One agent's machine.  journal: what was read, or a new one; write it whenever it is another one."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._wish = Wish()
        self._watch: _Watch | None = None
        self._refused = ""
        self._tries = 0
        self._trouble = ""
        self._again_at = 0.0
        self._wait_s = ROLLOUT_RETRY_S

    # --- the next step ----------------------------------------------------------------------------------------------

    def decide(self, wanted: Wish, facts: Facts, now: float) -> Step:
        if wanted != self._wish:
            self._wish = wanted
            self._calm()  # something new is not made to wait for what went wrong with the old
        self._refused = ""
        if facts.halted:
            self._watch = None
            return Wait()
        self._judge(facts, now)
        journal = self.journal
        if not journal.back:
            self._withdraw()
            journal = self.journal
        if journal.back:
            assert journal.base is not None
            return self._later(GoBack(journal.base, journal.back), now)
        known = wanted.wanted
        if known is None or self._passed_over(known, facts):
            if journal.target is not None:
                self.journal = replace(journal, target=None, staged=False)
            return self._watched(known, facts, now)
        if journal.tried == known.version:
            return self._watched(known, facts, now)
        return self._towards(known, facts, now)

    def _towards(self, known: Known, facts: Facts, now: float) -> Step:
        """What is wanted is neither what has proved itself nor what is on trial."""
        version, journal = known.version, self.journal
        if journal.target != version:
            self.journal = journal = replace(journal, target=version, staged=False)
            self._calm()
        if facts.runs == version.artefact and not journal.staged:  # it came another way, and is watched like any other
            self.journal = journal = replace(journal, staged=True)
        if not journal.staged:
            return self._later(Stage(version, known.plan), now)
        base = journal.base
        if base is None:
            current = journal.current
            ours = current is not None and current.artefact == facts.runs
            base = current if ours and current is not None else Version("", facts.runs)
        self.journal = replace(
            journal, target=None, staged=False, tried=version, base=base, lives=0, watched_s=0.0, clean=False
        )
        self._watch = None
        return self._later(Try(version, base), now)

    def _watched(self, known: Known | None, facts: Facts, now: float) -> Step:
        """Nothing is to be brought; a version on trial is watched until it has run well for long enough."""
        journal = self.journal
        if journal.base is None or journal.tried is None:
            return Wait()
        if facts.runs != journal.tried.artefact:
            return self._later(Try(journal.tried, journal.base), now)
        plan = known.plan if known is not None and known.version == journal.tried else None
        healthy_s = plan.gate.healthy_s if plan is not None else 60
        left_s = healthy_s - self.watched_s(now)
        watch = self._watch
        if watch is None or watch.since is None:
            return Wait()  # it is stopped, or on its way up
        if left_s > 0:
            return Wait(max(0.05, left_s))
        before = (journal.base, *(one for one in journal.before if one != journal.base))[:ROLLOUT_BEFORE_MAX]
        self.journal = replace(
            journal, current=journal.tried, before=before, tried=None, base=None, lives=0, watched_s=0.0
        )
        self._watch = None
        return Wait(0.0)

    def _passed_over(self, known: Known, facts: Facts) -> bool:
        """What is wanted is here and proven, has failed here, or may not be brought."""
        journal, version = self.journal, known.version
        if journal.failure(version) is not None:
            return True
        if journal.base is None and journal.current == version and facts.runs == version.artefact:
            return True
        if facts.hosted:
            self._refused = "the cell has placed an agent of this name on this device; rename or remove that"
            return True
        if journal.tried == version or facts.runs in ("", version.artefact):
            return False
        plan = known.plan
        going_back = any(one.version in (journal.current, journal.tried) for one in self._wish.withdrawn)
        if plan is None or plan.allow_downgrade or going_back:
            return False
        here, there = version_tuple(facts.version), version_tuple(plan.version)
        if there > here:
            return False
        what = "older than" if there < here else "the same version with another content as"
        self._refused = f"{plan.version} is {what} {facts.version}, which runs; --allow-downgrade brings it"
        return True

    def _withdraw(self) -> None:
        """The operator has taken back what runs here: to what ran before it."""
        journal = self.journal
        gone = {one.version: one.why for one in self._wish.withdrawn}
        if journal.tried in gone and journal.base is not None:
            self.journal = replace(journal, back=_why(gone[journal.tried]), ordered=True)
        elif journal.base is None and journal.current in gone:
            wanted = self._wish.wanted
            last = next((one for one in journal.before if one not in gone), None)
            brings = wanted is not None and journal.failure(wanted.version) is None
            if brings and wanted is not None and (last is None or wanted.artefact != last.artefact):
                return  # an older rollout counts again, and is brought like a new one
            if last is None:
                self._refused = "rolled back, but this device keeps nothing to go back to"
                return
            back = _why(gone[journal.current])
            self.journal = replace(journal, tried=journal.current, base=last, back=back, ordered=True)

    # --- whether it is well -----------------------------------------------------------------------------------------

    def _judge(self, facts: Facts, now: float) -> None:
        """Look at a version on trial; `back` says what is wrong with it."""
        journal, tried = self.journal, self.journal.tried
        if journal.base is None or tried is None or journal.back or facts.runs != tried.artefact:
            return
        watch = self._watch
        if watch is None or watch.version != tried:
            watch = self._watch = _Watch(tried, facts.restarts, facts.faults)
        broken = facts.restarts - watch.restarts
        faults = facts.faults - watch.faults
        why = ""
        if facts.status in _BEATEN:
            why = f"it is {facts.status}"
        elif broken >= ROLLOUT_LIVES:
            why = f"it was restarted {broken} times"
        elif faults >= ROLLOUT_FAULTS_MAX:
            why = f"{faults} of its calls failed"
        if why:
            self.journal = replace(journal, back=_why(why))
            return
        runs = facts.status == "running"
        if not runs or broken > watch.broken:  # a break: what was watched before counts no more
            if broken > watch.broken and journal.watched_s:
                self.journal = replace(journal, watched_s=0.0)
            self._watch = replace(watch, since=now if runs else None, broken=broken)
        elif watch.since is None:
            self._watch = replace(watch, since=now)

    def watched_s(self, now: float) -> float:
        """How long the version on trial has run well."""
        watch = self._watch
        if watch is None or watch.since is None:
            return self.journal.watched_s
        return self.journal.watched_s + max(0.0, now - watch.since)

    # --- what came of it --------------------------------------------------------------------------------------------

    def staged(self, version: Version) -> None:
        """It is on disk, verified, and has computed its golden vectors."""
        if self.journal.target == version:
            self.journal = replace(self.journal, staged=True)
            self._calm()

    def stage_failed(self, version: Version, why: str, now: float, *, final: bool) -> None:
        """final: it is wrong in itself; else (nobody has it, the disk is full) it is tried again."""
        if self.journal.target != version:
            return
        if final:
            self.journal = replace(self.journal.give_up(version, why), target=None, staged=False)
        else:
            self._troubled(why, now)

    def tried(self, version: Version, facts: Facts) -> None:
        """It was swapped in; from here on it is watched."""
        if self.journal.tried == version:
            self._watch = _Watch(version, facts.restarts, facts.faults)
            self._calm()

    def try_failed(self, version: Version, why: str, now: float, *, final: bool) -> None:
        """It does not come up; final: and never will."""
        if self.journal.tried == version and not self.journal.back:
            if final or self._tries + 1 >= ROLLOUT_TRIES:
                self.journal = replace(self.journal, back=_why(why))
                self._calm()
            else:
                self._troubled(why, now)

    def went_back(self) -> None:
        """What ran before runs again."""
        journal, wanted = self.journal, self._wish.wanted
        base, tried = journal.base, journal.tried
        assert tried is not None and base is not None and journal.back
        done = journal.give_up(tried, journal.back, ordered=journal.ordered)
        current, before = journal.current, journal.before
        if current == tried:  # it had proved itself, and was taken back
            before = before[before.index(base) + 1 :] if base in before else ()
        if current is None or current == tried or current.artefact != base.artefact:
            current = base if base.rollout else None
        if journal.ordered and wanted is not None and wanted.artefact == base.artefact:
            current = wanted.version
        self.journal = replace(
            done,
            tried=None,
            base=None,
            back="",
            ordered=False,
            clean=False,
            lives=0,
            watched_s=0.0,
            current=current,
            before=before,
        )
        self._watch = None
        self._calm()

    def back_failed(self, why: str, now: float) -> None:
        """It is tried again, for ever: nothing else is worth doing."""
        self._troubled(why, now)

    def _troubled(self, why: str, now: float) -> None:
        self._tries += 1
        self._trouble = why[:ROLLOUT_WHY_CHARS_MAX]
        self._again_at = now + self._wait_s
        self._wait_s = min(ROLLOUT_RETRY_S_MAX, self._wait_s * 2)

    def _calm(self) -> None:
        self._tries, self._trouble, self._again_at, self._wait_s = 0, "", 0.0, ROLLOUT_RETRY_S

    def _later(self, step: Stage | Try | GoBack, now: float) -> Step:
        return step if now >= self._again_at else Wait(self._again_at - now)

    # --- what is said of it -----------------------------------------------------------------------------------------

    def row(self) -> Row | None:
        """What the operator is told; None: no rollout has anything to do with this agent here."""
        journal = self.journal
        known = self._wish.wanted or self._wish.refused
        if journal.back and journal.tried is not None:
            state: State = "rolled_back" if journal.ordered else "failed"
            return self._row(journal.tried, state, journal.back)
        if journal.target is not None:
            if self._tries >= ROLLOUT_TRIES:
                return self._row(journal.target, "failed", self._trouble)
            return self._row(journal.target, "staged" if journal.staged else "fetching", self._trouble)
        if journal.tried is not None:
            return self._row(journal.tried, "running", self._trouble)
        if known is not None and self._refused:
            return self._row(known.version, "refused", self._refused)
        if known is not None and known is self._wish.refused:
            return self._row(known.version, "refused", known.fault)
        if known is not None and (failure := journal.failure(known.version)) is not None:
            return self._row(known.version, "rolled_back" if failure.ordered else "failed", failure.why)
        taken_back = (journal.failure(one.version) for one in self._wish.withdrawn)
        newest = next((one for one in taken_back if one is not None), None)
        if newest is not None:
            return self._row(Version(newest.rollout, newest.artefact), "rolled_back", newest.why)
        if journal.current is not None:
            return self._row(journal.current, "healthy", "")
        if journal.failed:
            last = journal.failed[-1]
            state = "rolled_back" if last.ordered else "failed"
            return self._row(Version(last.rollout, last.artefact), state, last.why)
        return None

    def _row(self, version: Version, state: State, why: str) -> Row:
        return Row(self.journal.agent, version.rollout, version.artefact, state, why)


def _why(text: str) -> str:
    """Never empty: an empty one means that there is nothing to go back for."""
    return text[:ROLLOUT_WHY_CHARS_MAX] or "rolled back"
