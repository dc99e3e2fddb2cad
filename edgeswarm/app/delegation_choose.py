"""Which delegates take part for an agent, and which of them computes it: from the file of verdicts, or by a contest.

A verdict holds for a file, a machine, the delegates that took part and the settings that count; whoever was out of it
stays out until one of those is another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, cast

from edgeswarm.app.config import Settings
from edgeswarm.app.delegation_rows import golden_of
from edgeswarm.app.shelf import Artefact
from edgeswarm.drivers.delegates import contest as contests
from edgeswarm.drivers.delegates import runtimes
from edgeswarm.drivers.delegates.contest import WASM, Contestant
from edgeswarm.drivers.delegates.hosts import Hosts, spec_for
from edgeswarm.drivers.delegates.manager import GpuManager
from edgeswarm.drivers.delegates.runtimes import Delegate, NotHereError
from edgeswarm.drivers.delegates.verdicts import Verdict, Verdicts, key_of
from edgeswarm.drivers.jail_spec import KernelSpec
from edgeswarm.drivers.jails import JailHost
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.ids import AgentName
from edgeswarm.limits import DELEGATE_MARGIN


@dataclass(frozen=True, slots=True)
class Field:
    """Who takes part for one agent.  wanted: by the settings, without a choice; absent: who is missing, and why."""

    wanted: str
    delegates: tuple[Delegate, ...]
    absent: tuple[str, ...]


class Prepares(Protocol):
    """What compiles a file's kernel (`app.shelf.Shelf`)."""

    async def prepare(self, artefact: Artefact, host: JailHost) -> None: ...


class Log(Protocol):
    """What is needed of a log."""

    def warning(self, event: str, **fields: Any) -> None: ...


class Around(Protocol):
    """Whose agents they are: a supervisor, or `agent bench`."""

    @property
    def settings(self) -> Settings: ...

    @property
    def host(self) -> JailHost | None: ...

    @property
    def shelf(self) -> Prepares: ...

    @property
    def log(self) -> Log: ...

    async def in_disk_thread(self, work: Callable[[], None]) -> None: ...


class Chooser:
    """Of one supervisor."""

    def __init__(self, around: Around, gpu: GpuManager) -> None:
        self._sup = around
        self._gpu = gpu
        self._settings = around.settings.profile.delegates
        self._verdicts = Verdicts(around.settings.state_dir / "delegates.json")

    def field(self, name: AgentName, *, without: Collection[str], quiet: bool = False) -> Field:
        """without: names that take no part.  quiet: say nothing in the log."""
        settings = self._settings
        said = dict(pair.split("=", 1) for pair in settings.agents)
        wanted = said.get(name) or said.get("*") or ""
        found, absent = [], []
        for one in [wanted] if wanted else settings.order:
            if one == WASM or one in without:
                continue
            try:
                if one == "gpu" and (share := self._gpu.allocate(1, now_s=time.monotonic())).cpu_only:
                    raise NotHereError(share.reason)
                found.append(
                    runtimes.find(
                        cast("runtimes.Name", one),
                        packages=settings.packages,
                        library=settings.library,
                        options=settings.library_options,
                        driver=settings.npu_dispatch if one == "npu" else settings.gpu_driver,
                    )
                )
            except EdgeSwarmError as error:
                absent.append(f"{one}: {error}")
                if not quiet and (wanted or one == "external" or not isinstance(error, NotHereError)):
                    self._sup.log.warning("delegate_missing", agent=name, delegate=one, error=str(error))
        return Field(wanted, tuple(found), tuple(absent))

    async def verdict(
        self, artefact: Artefact, field: Field, hosts: Hosts, *, anew: bool = False
    ) -> tuple[Verdict, bool]:
        """And whether it is new: the outcome of a contest that was held now.  anew: whatever is known already."""
        host, settings = self._sup.host, self._settings
        assert host is not None
        counts = [settings.choose, settings.threads, settings.tolerance, field.wanted, host.tier, *settings.order]
        key = key_of(artefact.plan.artefact, host.cache.binding, [one.identity for one in field.delegates], counts)
        known = self._verdicts.get(key)
        if known is not None and not anew:
            return known, False
        scores = await self._contest(artefact, field.delegates, hosts)
        verdict = Verdict(self.choice(scores, field), tuple(scores), time.time())
        try:
            await self._sup.in_disk_thread(lambda: self._verdicts.put(key, verdict))
        except OSError as error:
            self._sup.log.warning("delegate_verdict_not_kept", agent=artefact.plan.name, error=str(error))
        return verdict, True

    def choice(self, scores: Sequence[contests.Score], field: Field) -> str:
        """Who computes, of these."""
        alive = [score.name for score in scores if score.us is not None]
        if field.wanted:
            return field.wanted if field.wanted in alive else WASM
        if self._settings.choose == "first":
            return next((one for one in self._settings.order if one in alive), WASM)
        return contests.fastest(scores, margin=DELEGATE_MARGIN)

    async def _contest(self, artefact: Artefact, delegates: tuple[Delegate, ...], hosts: Hosts) -> list[contests.Score]:
        host = self._sup.host
        assert host is not None
        if artefact.cwasm is None:  # of before a hand-over
            await self._sup.shelf.prepare(artefact, host)
        layout = replace(artefact.layout, batch_max=1)  # rows come one by one, for every contestant
        spec = replace(artefact.kernel_spec(0), layout=layout, memory_width=0)
        policy = artefact.plan.policy

        def kernel(on_reply: Any, on_exit: Any) -> Any:
            return host.spawn([spec], policy=policy, on_reply=on_reply, on_exit=on_exit)

        def of(one: Delegate) -> Contestant:
            one_spec = self.spec(artefact, one)

            def make(on_reply: Any, on_exit: Any) -> Any:
                return hosts.spawn(one, one_spec, on_reply=on_reply, on_exit=on_exit)

            return Contestant(one.name, make, partial(hosts.done, one))

        golden = golden_of(artefact, self._settings.tolerance)
        return await contests.contest([Contestant(WASM, kernel), *(of(one) for one in delegates)], golden)

    def spec(self, artefact: Artefact, delegate: Delegate) -> KernelSpec:
        """What a jail needs for this delegate to compute this agent."""
        return spec_for(
            delegate,
            name=artefact.plan.name,
            model=artefact.file.sections["tflite"],
            layout=artefact.layout,
            deadline_ms=artefact.deadline_ms,
            threads=max(1, min(self._settings.threads, int(artefact.allowance.cpu_cores))),
            cpu_cores=artefact.allowance.cpu_cores,
        )

    def reason(self, verdict: Verdict, field: Field) -> str:
        """Why that one computes, for people."""
        times = ", ".join(f"{score.name} {score.us:g} us" for score in verdict.scores if score.us is not None)
        if field.wanted:
            return f"the settings say so: {times}"
        return f"{'the first' if self._settings.choose == 'first' else 'the fastest'} here: {times}"
