"""What a jail is made of: the agents, whether they fit together, and how they are laid out in shared memory.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from edgeswarm.compile.abi import Layout
from edgeswarm.errors import LimitError, LocalError
from edgeswarm.jail import frames
from edgeswarm.limits import (
    CALL_DEADLINE_MS_DEFAULT,
    CALL_DEADLINE_MS_MAX,
    JAIL_AGENTS_MAX,
    KERNEL_MEMORY_BYTES_MAX,
    KIB,
    RING_BYTES_DEFAULT,
)

RING_BYTES_MIN: Final = 64 * KIB
_PLACE_BYTES: Final = 64  # where parts of the payload begin: a multiple of this


@dataclass(frozen=True, slots=True)
class DelegateJob:
    """Who computes a model in a jail of `jail.delegate`'s workers.

    kind: of the worker's runners, cpu, gpu or npu.  library: absolute path of an external delegate, or nothing;
    options: for it.  driver: as `drivers.delegates.runtimes.Delegate` has it.
    """

    kind: str = "cpu"
    threads: int = 1
    library: str = ""
    options: tuple[tuple[str, str], ...] = ()
    driver: str = ""


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One agent of a jail.  cwasm comes from `JailHost.compile` only.  memory_width: see `memory` in the agent file.

    delegate: then `cwasm` is a model file, and the jail's host one of `drivers.delegates`.
    """

    slot: int
    name: str
    cwasm: bytes
    layout: Layout
    weights: bytes
    memory_limit_bytes: int = 0
    """0: what the layout needs."""
    deadline_ms: int = CALL_DEADLINE_MS_DEFAULT
    memory_width: int = 0
    cpu_cores: float = 1.0
    """CPU time a second at most; a jail gets the sum of its agents'."""
    delegate: DelegateJob | None = None

    @property
    def frame_bytes(self) -> int:
        """Payload of one input row: the kept memory is the jail's business."""
        return 4 * (self.layout.input.width - self.memory_width)

    @property
    def reply_bytes(self) -> int:
        return 4 * self.layout.output.width

    @property
    def limit_bytes(self) -> int:
        return self.memory_limit_bytes or self.layout.memory_bytes


def check_specs(specs: Sequence[KernelSpec]) -> None:
    """Raises LocalError or LimitError when these agents cannot share a jail."""
    if not 1 <= len(specs) <= JAIL_AGENTS_MAX:
        raise LimitError(f"agents of a jail: expected 1 to {JAIL_AGENTS_MAX} (JAIL_AGENTS_MAX), found {len(specs)}")
    if len({spec.slot for spec in specs}) != len(specs):
        raise LocalError("agents of a jail: every slot can be taken once")
    for spec in specs:
        layout = spec.layout
        if not 0 <= spec.slot < JAIL_AGENTS_MAX:
            raise LimitError(f"agent {spec.name}: slot of 0 to {JAIL_AGENTS_MAX - 1} expected, found {spec.slot}")
        if len(spec.weights) != layout.weights.size:
            raise LocalError(
                f"agent {spec.name}: weights of {layout.weights.size} bytes expected, found {len(spec.weights)}"
            )
        if not 1 <= spec.deadline_ms <= CALL_DEADLINE_MS_MAX:
            raise LimitError(
                f"agent {spec.name}: deadline of 1 to {CALL_DEADLINE_MS_MAX} ms (CALL_DEADLINE_MS_MAX), "
                f"found {spec.deadline_ms}"
            )
        if not 0 <= spec.memory_width < layout.input.width or spec.memory_width > layout.output.width:
            raise LocalError(
                f"agent {spec.name}: memory of {spec.memory_width} values does not fit "
                f"{layout.input.width} inputs and {layout.output.width} outputs"
            )
        if not layout.memory_bytes <= spec.limit_bytes <= KERNEL_MEMORY_BYTES_MAX:
            raise LimitError(
                f"agent {spec.name}: its kernel needs {layout.memory_bytes} bytes, its limit is {spec.limit_bytes}, "
                f"the largest {KERNEL_MEMORY_BYTES_MAX} (KERNEL_MEMORY_BYTES_MAX)"
            )


def ring_bytes_for(specs: Sequence[KernelSpec]) -> int:
    """Memory for both rings: four single rows each, and two whole batches as long as that stays below the default."""
    batch = max(frames.frame_bytes(spec.layout.batch_max * max(spec.frame_bytes, spec.reply_bytes)) for spec in specs)
    return max(RING_BYTES_MIN, 2 * 4 * _row_frame_bytes(specs), min(2 * 2 * batch, RING_BYTES_DEFAULT))


def ring_bytes_least(specs: Sequence[KernelSpec]) -> int:
    """Of both rings where each has room for two of the widest rows: 2.3 MiB for images of 224 x 224 x 3."""
    return max(RING_BYTES_MIN, 2 * 2 * _row_frame_bytes(specs))


def _row_frame_bytes(specs: Sequence[KernelSpec]) -> int:
    return max(frames.frame_bytes(max(spec.frame_bytes, spec.reply_bytes)) for spec in specs)


def lay_out(specs: Sequence[KernelSpec]) -> tuple[bytearray, list[dict[str, Any]]]:
    """All code and weights in one piece of memory, and what the jail has to know about each agent."""
    payload = bytearray()
    agents = []

    def place(content: bytes) -> list[int]:
        payload.extend(bytes(-len(payload) % _PLACE_BYTES))
        at = len(payload)
        payload.extend(content)
        return [at, len(content)]

    for spec in specs:
        layout = spec.layout
        agents.append(
            {
                "slot": spec.slot,
                "name": spec.name,
                "cwasm": place(spec.cwasm),
                "weights": place(spec.weights),
                "input": [layout.input.offset, layout.input.stride, layout.input.width],
                "output": [layout.output.offset, layout.output.stride, layout.output.width],
                "weights_offset": layout.weights.offset,
                "weights_bytes": layout.weights.size,
                "batch_max": layout.batch_max,
                "memory_limit_bytes": spec.limit_bytes,
                "deadline_ms": spec.deadline_ms,
                "memory_width": spec.memory_width,
            }
            | ({} if spec.delegate is None else {"delegate": asdict(spec.delegate)})
        )
    return payload, agents
