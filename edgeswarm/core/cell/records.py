"""Readers of the nouns of `types`, used by commands and snapshots alike, with the rules across their fields."""

from __future__ import annotations

import hashlib
from typing import Any

from edgeswarm.core.cell import shapes as s
from edgeswarm.core.cell.types import (
    AGGREGATES,
    TIERS,
    AgentSpec,
    AgentState,
    AuditRecord,
    Capabilities,
    DeviceState,
    JobState,
    JobStatus,
    MapSpec,
    Needs,
    RolloutState,
    StopFlag,
    TaskRun,
    TaskSpec,
    TaskStatus,
)
from edgeswarm.errors import CodecError
from edgeswarm.limits import (
    AGENT_NEIGHBOURS_MAX,
    CAPABILITIES_BYTES_MAX,
    CAPABILITY_BYTES_MAX,
    CAPABILITY_NAMES_MAX,
    JOB_EDGES_MAX,
    JOB_TASKS_MAX,
    MAP_AGENTS_MAX,
    NEEDS_BYTES_MAX,
    ROLLOUT_ORDER_BYTES_MAX,
    TASK_AFTER_MAX,
    TASK_INPUT_BYTES_MAX,
    TASK_MS_MAX,
    TASK_RESULT_BYTES_MAX,
    TASK_RETRIES_MAX,
)

_name = s.text(CAPABILITY_BYTES_MAX)
_names = s.ascending(_name, CAPABILITY_NAMES_MAX)
_tier = s.choice(*TIERS)
_count = s.uint(1 << 32)
TASK_BYTES = 1024
"""Of a task and its run besides what has a length of its own: a name, a device, a reason, two heads of texts."""

_offer_fields = s.record(Capabilities, _name, _tier, _name, s.uint(), s.uint(), _count, _names, _names, _names, _names)
_need_fields = s.record(Needs, _name, _tier, _names, s.uint(), s.uint(), _names, _names, _names, _names)


def capabilities(value: Any) -> Capabilities:
    offer = _offer_fields(value)
    size = _size(offer.delegates, offer.sensors, offer.grants, offer.labels)
    if size > CAPABILITIES_BYTES_MAX:
        raise CodecError(f"capabilities: expected at most {CAPABILITIES_BYTES_MAX} bytes of names, found {size}")
    return offer


def needs_bytes(wanted: Needs) -> int:
    return _size(wanted.architectures, wanted.delegates, wanted.sensors, wanted.grants, wanted.labels)


def needs(value: Any) -> Needs:
    wanted = _need_fields(value)
    if needs_bytes(wanted) > NEEDS_BYTES_MAX:
        raise CodecError(f"needs: expected at most {NEEDS_BYTES_MAX} bytes of names, found {needs_bytes(wanted)}")
    return wanted


_neighbours = s.ascending(s.agent_id, AGENT_NEIGHBOURS_MAX)
_spec_fields = s.record(
    AgentSpec, s.agent_id, s.digest, needs, s.device_id_or_empty, _neighbours, _neighbours, s.flag, s.flag
)


def agent_spec(value: Any) -> AgentSpec:
    spec = _spec_fields(value)
    size = needs_bytes(spec.needs) + _size(spec.near, spec.apart)
    if size > NEEDS_BYTES_MAX:
        raise CodecError(f"agent {spec.id}: expected at most {NEEDS_BYTES_MAX} bytes of names, found {size}")
    return spec


def _size(*lists: tuple[str, ...]) -> int:
    return sum(len(name.encode()) + 2 for names in lists for name in names)


_map_fields = s.record(
    MapSpec,
    s.ascending(s.agent_id, MAP_AGENTS_MAX),
    s.choice(*AGGREGATES),
    s.uint(MAP_AGENTS_MAX, 1),
    s.agent_id_or_empty,
    s.uint(1000),
)
_after = s.ascending(s.uint(JOB_TASKS_MAX - 1), TASK_AFTER_MAX)


def map_spec(value: Any) -> MapSpec:
    spec = _map_fields(value)
    if not spec.agents:
        raise CodecError("a map: expected at least one agent")
    if (spec.aggregate == "kernel") != bool(spec.kernel):
        raise CodecError("a map names a kernel exactly when its aggregate is kernel")
    return spec


_task_fields = s.record(
    TaskSpec,
    s.agent_id,
    s.agent_id_or_empty,
    s.digest_or_empty,
    needs,
    _after,
    s.blob(TASK_INPUT_BYTES_MAX),
    s.uint(TASK_RESULT_BYTES_MAX),
    s.uint(TASK_MS_MAX),
    s.uint(TASK_RETRIES_MAX),
    s.uint(TASK_MS_MAX),
    s.optional(map_spec),
)


def task_spec(value: Any) -> TaskSpec:
    spec = _task_fields(value)
    if sum((bool(spec.agent), bool(spec.artefact), spec.map is not None)) != 1:
        raise CodecError(f"task {spec.name}: expected exactly one of agent, artefact, map")
    return spec


task_run = s.record(
    TaskRun,
    s.enum(TaskStatus),
    _count,
    _count,
    _count,
    s.device_id_or_empty,
    s.blob(TASK_RESULT_BYTES_MAX),
    s.why,
)
device_state = s.record(DeviceState, s.device_id, capabilities, s.uint(), s.uint(), s.flag, s.uint(), s.flag)
agent_state = s.record(AgentState, agent_spec, s.uint(), s.optional(s.device_id), s.uint(), s.uint(), s.digest_or_empty)
stop_flag = s.record(StopFlag, s.who, s.why, s.uint())
audit_record = s.record(AuditRecord, s.uint(), s.uint(), s.who, s.text(1024))
_job_fields = s.record(
    JobState,
    s.job_id,
    s.who,
    s.many(task_spec, JOB_TASKS_MAX, 1),
    s.many(task_run, JOB_TASKS_MAX, 1),
    s.uint(),
    s.uint(TASK_MS_MAX),
    s.enum(JobStatus),
    s.why,
)


def job_state(value: Any) -> JobState:
    job = _job_fields(value)
    if len(job.tasks) != len(job.runs):
        raise CodecError(f"job {job.id}: {len(job.tasks)} tasks, {len(job.runs)} runs")
    fault = job_fault(job.tasks)
    if fault:
        raise CodecError(f"job {job.id}: {fault}")
    return job


def job_fault(tasks: tuple[TaskSpec, ...]) -> str | None:
    """Why these are not the tasks of one job, or None.  Each waits for earlier ones only, so there is no cycle."""
    names: set[str] = set()
    for index, task in enumerate(tasks):
        if task.name in names:
            return f"two tasks are named {task.name}"
        names.add(task.name)
        if task.after and task.after[-1] >= index:
            return f"task {task.name} waits for one that does not stand before it"
    edges = sum(len(task.after) for task in tasks)
    return f"expected at most {JOB_EDGES_MAX} dependencies, found {edges}" if edges > JOB_EDGES_MAX else None


def job_bytes(tasks: tuple[TaskSpec, ...]) -> int:
    """What the tasks hold and what is kept free for their results, in bytes, as a snapshot has them at most."""
    return sum(
        TASK_BYTES
        + len(task.input)
        + task.result_bytes_max
        + 3 * len(task.after)
        + needs_bytes(task.needs)
        + (66 * len(task.map.agents) if task.map else 0)
        for task in tasks
    )


def rollout_bytes(rollout: RolloutState) -> int:
    """What it takes of CELL_ROLLOUTS_BYTES_MAX.  Room for an order is kept: it can always be stopped."""
    devices = rollout.devices
    return len(rollout.plan) + ROLLOUT_ORDER_BYTES_MAX + sum(map(len, devices)) + 2 * len(devices)


def digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
