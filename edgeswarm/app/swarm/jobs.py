"""Jobs as people write them: a graph of tasks in YAML, JSON or Python, and the rows in which a job is shown.

Decides whether a form is a job (every fault with its path, and its line where the text is known; a cycle with its
path) and what the cell gets of it.  A task's input inside the log is CBOR: {"rows": [[float, ...], ...], "use": [task,
...]}; `use` names earlier tasks whose answers become further rows.  A result is CBOR too, see `tasks_work`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from edgeswarm import limits
from edgeswarm.core.cell.types import JobState, MapSpec, Needs, TaskSpec, TaskStatus
from edgeswarm.core.jobs.graph import ordered
from edgeswarm.errors import CodecError, EdgeSwarmError, LimitError, LocalError
from edgeswarm.schema import SchemaError, decode
from edgeswarm.schema.kinds import Doc, Length, Pattern, Range
from edgeswarm.wire import codec

_ID = Pattern(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = Pattern(r"[a-z][a-z0-9-]{0,63}")
_S_MAX = limits.TASK_MS_MAX / 1000
Names = Annotated[tuple[str, ...], Length(0, limits.MAP_AGENTS_MAX)]


@dataclass(frozen=True, slots=True)
class NeedsForm:
    """What a device must offer; empty: anything will do."""

    profile: str = ""
    tier: Annotated[Literal["A", "B", "C"], Doc("the weakest isolation that is enough")] = "C"
    architectures: tuple[str, ...] = ()
    memory_mb: Annotated[int, Range(0, 1 << 20)] = 0
    cpu_cores: Annotated[float, Range(0, 1024)] = 0.0
    delegates: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def needs(self) -> Needs:
        return Needs(
            profile=self.profile,
            tier_min=self.tier,
            architectures=_sorted(self.architectures),
            memory_bytes=self.memory_mb << 20,
            cpu_milli=round(self.cpu_cores * 1000),
            delegates=_sorted(self.delegates),
            sensors=_sorted(self.sensors),
            grants=_sorted(self.grants),
            labels=_sorted(self.labels),
        )


@dataclass(frozen=True, slots=True)
class MapForm:
    """One input for many agents of the cell, their answers drawn together."""

    aggregate: Literal["mean", "vote", "top-k", "kernel"]
    agents: Annotated[Names, Doc("ids")] = ()
    match: Annotated[str, Doc("a pattern such as sensor-*, resolved when the job is submitted")] = ""
    k: Annotated[int, Range(1, limits.MAP_AGENTS_MAX)] = 1
    kernel: Annotated[str, Doc("agent of two rows in, one out; for aggregate kernel")] = ""
    share: Annotated[float, Range(0, 1), Doc("of the agents that must answer")] = 1.0

    def faults(self) -> Iterator[tuple[str, str]]:
        if bool(self.agents) == bool(self.match):
            yield "agents", "expected either agents or match"
        if (self.aggregate == "kernel") != bool(self.kernel):
            yield "kernel", "goes with aggregate kernel, and only with it"


@dataclass(frozen=True, slots=True)
class TaskForm:
    name: Annotated[str, _NAME]
    agent: Annotated[str, Doc("an agent of the cell: the task runs where it is")] = ""
    file: Annotated[str, Doc("an agent file: it runs on any device that fits, for this task")] = ""
    map: MapForm | None = None
    rows: Annotated[tuple[tuple[float, ...], ...], Length(0, limits.JOB_ROWS_MAX)] = ()
    use: Annotated[tuple[str, ...], Doc("tasks whose answers are further rows, after `rows`")] = ()
    after: Annotated[tuple[str, ...], Doc("tasks that must finish first, besides those of `use`")] = ()
    needs: NeedsForm = field(default_factory=NeedsForm)
    deadline_s: Annotated[float, Range(0, _S_MAX), Doc("for one attempt; 0: none")] = limits.TASK_DEADLINE_S
    retries: Annotated[int, Range(0, limits.TASK_RETRIES_MAX)] = 3
    backoff_s: Annotated[float, Range(0, _S_MAX)] = 0.1
    result_bytes: Annotated[int, Range(1, limits.TASK_RESULT_BYTES_MAX)] = limits.TASK_RESULT_BYTES

    def faults(self) -> Iterator[tuple[str, str]]:
        if sum((bool(self.agent), bool(self.file), self.map is not None)) != 1:
            yield "name", "expected exactly one of agent, file, map"
        if not self.rows and not self.use:
            yield "rows", "expected rows, or use"


@dataclass(frozen=True, slots=True)
class JobForm:
    """A job file.  job: its id; the same job submitted twice under one id is one job."""

    tasks: Annotated[tuple[TaskForm, ...], Length(1, limits.JOB_TASKS_MAX)]
    job: Annotated[str, _ID] | None = None
    deadline_s: Annotated[float, Range(0, _S_MAX), Doc("for the whole job; 0: none")] = 0.0


class JobFormError(LocalError):
    """A form is no job."""


def form_of(tree: object, *, where: str, lines: Mapping[str, int] | None = None) -> JobForm:
    """The form in a tree of plain values.  Raises JobFormError with every fault (and its line)."""
    try:
        form = decode(tree, JobForm, where=where, lines=lines)
    except SchemaError as error:
        raise JobFormError(str(error)) from None
    graph_of(form, where)
    return form


def parse(text: str, *, who: str) -> JobForm:
    """A job file: YAML, of which JSON is a part.  Raises JobFormError, LimitError, AgentFileError (of the YAML)."""
    from edgeswarm.agentfile import yamltext

    if len(text) > limits.JOB_FILE_BYTES_MAX:
        raise LimitError(f"{who}: at most {limits.JOB_FILE_BYTES_MAX} bytes (JOB_FILE_BYTES_MAX)")
    parsed = yamltext.parse(text, who=who)
    return form_of(parsed.tree, where=who, lines=parsed.lines)


def graph_of(form: JobForm, where: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(task, indexes of what it waits for), in an order that can run.  Raises JobFormError."""
    names = [task.name for task in form.tasks]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None) if _has_twins(names) else None
    if twice is not None:
        raise JobFormError(f"{where}: two tasks are named {twice}")
    try:
        return ordered(form.job or where, {task.name: (*task.after, *task.use) for task in form.tasks})
    except LocalError as error:
        raise JobFormError(str(error)) from None


def _has_twins(names: list[str]) -> bool:
    return len(set(names)) != len(names)


def specs_of(form: JobForm, *, agents: Iterable[str], files: Mapping[str, bytes]) -> tuple[TaskSpec, ...]:
    """What goes into the log.  agents: of the cell, for `match`; files: `file` -> SHA-256 of the agent file.

    Raises JobFormError.
    """
    known = sorted(agents)
    by_name = {task.name: task for task in form.tasks}
    return tuple(_spec(by_name[name], after, known, files) for name, after in graph_of(form, form.job or "job"))


def _spec(task: TaskForm, after: tuple[int, ...], agents: list[str], files: Mapping[str, bytes]) -> TaskSpec:
    if task.file and task.file not in files:
        raise JobFormError(f"task {task.name}: the agent file {task.file} was not given")
    data: dict[str, Any] = {"rows": [list(row) for row in task.rows]}
    if task.use:
        data["use"] = list(task.use)
    try:
        encoded = codec.dumps(data)
    except EdgeSwarmError as error:
        raise JobFormError(f"task {task.name}: rows: {error}") from None
    if len(encoded) > limits.TASK_INPUT_BYTES_MAX:
        raise JobFormError(
            f"task {task.name}: rows: at most {limits.TASK_INPUT_BYTES_MAX} bytes as CBOR, found {len(encoded)}"
        )
    return TaskSpec(
        name=task.name,
        agent=task.agent,
        artefact=files[task.file] if task.file else b"",
        needs=task.needs.needs(),
        after=after,
        input=encoded,
        result_bytes_max=task.result_bytes,
        deadline_ms=round(task.deadline_s * 1000),
        retries_max=task.retries,
        backoff_ms=round(task.backoff_s * 1000),
        map=None if task.map is None else _map(task, task.map, agents),
    )


def _map(task: TaskForm, form: MapForm, agents: list[str]) -> MapSpec:
    asked = sorted(set(form.agents)) if form.agents else fnmatch.filter(agents, form.match)
    if not 1 <= len(asked) <= limits.MAP_AGENTS_MAX:
        what = f"match {form.match!r}" if form.match else "agents"
        raise JobFormError(f"task {task.name}: map.{what}: expected 1 to {limits.MAP_AGENTS_MAX}, found {len(asked)}")
    return MapSpec(tuple(asked), form.aggregate, form.k, form.kernel, round(form.share * 1000))


def _sorted(items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(items)))


# --- what is shown --------------------------------------------------------------------------------------------------


def row_of(job: JobState, *, progress: int, whole: bool) -> dict[str, Any]:
    """A job as `swarm jobs` and programs get it.  progress: in thousandths.  whole: its tasks and results too."""
    done = sum(run.status is TaskStatus.FINISHED for run in job.runs)
    row: dict[str, Any] = {
        "job": job.id,
        "status": job.status.name.lower(),
        "why": job.why,
        "who": job.who,
        "tasks": len(job.tasks),
        "finished": done,
        "permille": progress,
    }
    if whole:
        row["runs"] = [
            {
                "task": task.name,
                "status": run.status.name.lower(),
                "device": run.device,
                "attempt": run.attempt,
                "failures": run.failures,
                "losses": run.losses,
                "why": run.why,
                "result": result_of(run.result),
            }
            for task, run in zip(job.tasks, job.runs, strict=True)
        ]
    return row


def result_of(data: bytes) -> Any:
    """What a task came to; None: nothing yet.  Bytes that are no CBOR stay bytes."""
    try:
        return codec.loads(data) if data else None
    except CodecError:
        return data
