"""`edgeswarm agent bench --delegates`: who computes a file here, kernel or delegate, as a supervisor would decide."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeswarm.app.cli import common, jailed, output
from edgeswarm.errors import LocalError

if TYPE_CHECKING:
    from edgeswarm.app.config import Settings
    from edgeswarm.app.shelf import Artefact
    from edgeswarm.drivers.delegates.contest import Score
    from edgeswarm.drivers.jails import JailHost


class _Warn:
    """The log of a command."""

    def warning(self, event: str, **fields: Any) -> None:
        output.warn(f"{event}: {', '.join(f'{key} {value}' for key, value in fields.items())}")


class _Compile:
    async def prepare(self, artefact: Artefact, host: JailHost) -> None:
        artefact.cwasm = await host.compile(artefact.file.section("wasm_kernel"))


@dataclass(slots=True)
class _Around:
    """In a supervisor's place (`delegation_choose.Around`)."""

    settings: Settings
    host: JailHost | None
    shelf: _Compile
    log: _Warn

    async def in_disk_thread(self, work: Callable[[], None]) -> None:
        work()


def hold(path: Path, state: Path | None, config_file: Path | None) -> dict[str, Any]:
    """A contest, whatever is known already; the verdict is kept for the supervisor of that state directory.

    Raises LocalError where the file brings no model, AgentFileError, KernelError, TierError, JailError.
    """
    return asyncio.run(_hold(_artefact(path, common.settings_of(state, config_file)), state, config_file))


def _artefact(path: Path, settings: Settings) -> Artefact:
    from edgeswarm import agentfile
    from edgeswarm.app.allowance import allow
    from edgeswarm.app.shelf import Artefact, check_kernel, plan_of
    from edgeswarm.ids import KeyId

    data = common.read_agent_file(path)
    file = agentfile.read(data, who=str(path))
    if "tflite" not in file.sections:
        raise LocalError(f"{path}: it brings no TFLite model (section tflite), so nobody but its kernel can compute it")
    timing, weights = settings.profile.timing, file.sections.get("neural_weights", b"")
    plan = plan_of(file.header, artefact=file.sha256, publisher=KeyId(""), timing=timing)
    deadline_ms = min(file.header.kernel.deadline_ms, timing.deadline_ms_max)
    allowance = allow(file.header, settings.profile.classes)
    return Artefact(plan, file, check_kernel(file, who=str(path)), data, weights, deadline_ms, allowance)


async def _hold(artefact: Artefact, state: Path | None, config_file: Path | None) -> dict[str, Any]:
    from edgeswarm.app.delegation_choose import Chooser
    from edgeswarm.app.delegation_rows import why_never
    from edgeswarm.drivers.delegates.hosts import Hosts
    from edgeswarm.drivers.delegates.manager import GpuManager
    from edgeswarm.drivers.jails import JailHost, Program

    arguments = jailed.host_arguments(state, config_file)

    def make(program: Program, first_id: int) -> JailHost:
        return JailHost(**arguments, program=program, first_id=first_id)

    settings = common.settings_of(state, config_file)
    host, hosts = JailHost(**arguments), Hosts(make)
    gpu = GpuManager(settings.profile.delegates.gpu_memory_mb << 20, lambda _: None)
    chooser = Chooser(_Around(settings, host, _Compile(), _Warn()), gpu)
    try:
        await host.start()
        jailed.check_tier(host, state, config_file)
        field = chooser.field(artefact.plan.name, without=())
        why, choice = why_never(artefact), "wasm"
        scores: tuple[Score, ...] = ()
        if not why and field.delegates:
            verdict, _ = await chooser.verdict(artefact, field, hosts, anew=True)
            why, scores, choice = chooser.reason(verdict, field), verdict.scores, verdict.choice
        return {
            "agent": artefact.plan.name,
            "tier": host.tier,
            "choice": choice,
            "why": why or "; ".join(field.absent) or "only its kernel may compute it (delegates.order)",
            "us": {score.name: score.us for score in scores},
            "out": {score.name: score.why for score in scores if score.why},
            "absent": list(field.absent),
            "at": round(time.time(), 3),
        }
    finally:
        await hosts.close()
        await host.close()


def text(row: dict[str, Any]) -> str:
    """For people: a line for each, the chosen one marked."""
    cells = [
        ("*" if name == row["choice"] else "", name, "-" if us is None else f"{us:g}", row["out"].get(name, ""))
        for name, us in row["us"].items()
    ]
    table = [output.table(("", "who", "µs a row", "out, because"), cells, right=[2]), ""] if cells else []
    absent = [f"not here: {one}" for one in row["absent"]]
    return "\n".join([*table, *absent, f"agent {row['agent']} runs on {row['choice']}: {row['why']}"])
