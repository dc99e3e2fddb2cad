"""`Population`: many agents of one model on one device, ticked by one call.

`instance`: every agent has a WebAssembly instance, a linear memory and a fate of its own; one jail and one store hold
them.  `packed`: equal nets side by side in one memory, four a SIMD vector, for swarms that need no isolation from each
other (they have it from everybody else: it is a jail too).
Inputs and outputs are views of memory that the jail's process shares: nothing is copied on the way, and whoever writes
`inputs` and calls `tick()` has computed.  One thread at a time uses a population; a second one is refused by name.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from edgeswarm.app.population_members import Faults, Isolated, Packed
from edgeswarm.app.population_source import Source, source_of
from edgeswarm.errors import InputError, LimitError, LocalError
from edgeswarm.limits import POPULATION_PACKED_MAX

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeswarm.agentfile import AgentFile
    from edgeswarm.app.network import Network
    from edgeswarm.app.population_members import Layers
    from edgeswarm.compile import Kernel
    from edgeswarm.drivers.jail_sync import SyncHost
    from edgeswarm.model import Mlp
    from edgeswarm.model.graph import Graph
    from edgeswarm.model.shortcut import Shortcut

    F32 = NDArray[np.float32]

ISOLATIONS: Final = ("instance", "packed")
ON_FAULT: Final = ("leave", "reset")


class Population:
    """`count` agents of one model, each with its own row of inputs, its own outputs and, if you like, its own weights.

    model: a Network, an Mlp, a Shortcut or Graph (isolated only), a Kernel (the same), or an agent file (its path, its
    bytes, or what `agentfile.read` gave).
    isolation: `instance` or `packed`.  mode: `fast` or `deterministic`, where a kernel is made here.
    deadline_ms: how long one agent may compute before it is stopped (packed: the whole tick); 0: what the agent file
    says, else 100 (packed: 10,000).
    on_fault: an agent that traps or runs past its deadline is left out until `reset` (`leave`), or made anew at once.
    memory_limit_bytes: how far one isolated agent's memory may grow; 0: not at all.
    host: a zygote to share; None starts one.  Starts the jail; use `with`, or close() it.
    Raises LocalError, InputError, LimitError, KernelError, JailError.
    """

    def __init__(
        self,
        model: Network | Mlp | Shortcut | Graph | Kernel | AgentFile | Path | str | bytes,
        count: int,
        *,
        isolation: str = "instance",
        mode: str = "fast",
        deadline_ms: int = 0,
        on_fault: str = "leave",
        memory_limit_bytes: int = 0,
        host: SyncHost | None = None,
    ) -> None:
        if isolation not in ISOLATIONS:
            raise LocalError(f"isolation: expected one of {', '.join(ISOLATIONS)}, found {isolation!r}")
        if on_fault not in ON_FAULT:
            raise LocalError(f"on_fault: expected one of {', '.join(ON_FAULT)}, found {on_fault!r}")
        count, deadline_ms = _whole("count", count), _whole("deadline_ms", deadline_ms)
        memory_limit_bytes = _whole("memory_limit_bytes", memory_limit_bytes)
        if not 1 <= count <= POPULATION_PACKED_MAX:
            raise LimitError(f"count: expected 1 to {POPULATION_PACKED_MAX} (POPULATION_PACKED_MAX), found {count}")
        source = source_of(model, mode)
        self.count, self.isolation, self.on_fault = count, isolation, on_fault
        self._closed = False
        self._members: Isolated | Packed = (
            Isolated(source, count, deadline_ms=deadline_ms, memory_limit_bytes=memory_limit_bytes, host=host)
            if isolation == "instance"
            else Packed(source, count, deadline_ms=deadline_ms, host=host)
        )
        self._source: Source = source
        self._busy = threading.Lock()
        self._left_out: Faults = {}
        self._faults: Faults = {}

    # --- computing ----------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> F32:
        """float32[count, inputs], to be written: the agents' own memory."""
        return self._members.inputs

    @property
    def outputs(self) -> F32:
        """float32[count, outputs], read-only: the answers of the last tick, until the next; NaN where there is none."""
        return self._members.outputs

    def tick(self, rows: Any = None) -> F32:
        """Compute every agent once; returns `outputs`.

        rows: [count, inputs], copied into `inputs`; None: what `inputs` holds.  An agent that faults, or answers with
        NaN or infinity, is in `faults`; its row of outputs is NaN.
        Raises InputError for rows of another shape or not finite, TrapError when a packed population faults as a whole,
        JailGoneError when the jail ends, LocalError (as all that follow) while another thread is at work on it.
        """
        with self._alone():
            return self._tick(rows)

    def _tick(self, rows: Any) -> F32:
        import numpy as np

        if rows is not None:
            self.inputs[:] = self._checked(rows)
        late = self._members.tick()
        self._left_out.update(late)
        self._faults = dict(self._left_out)
        if self.on_fault == "reset":
            for agent in late:
                self._reset(agent)
        answers = self._members.answers
        if self._faults:
            answers[list(self._faults)] = np.nan
        finite = np.isfinite(answers)
        if not finite.all():
            for agent in np.flatnonzero(~finite.all(axis=1)).tolist():
                self._faults.setdefault(agent, "the output holds NaN or infinity")
            answers[list(self._faults)] = np.nan
        return self.outputs

    def _checked(self, rows: Any) -> F32:
        import numpy as np

        expected = self.inputs.shape
        try:
            found = np.asarray(rows)
            if found.dtype.kind in "cMmV":  # whose parts or counts numpy would take
                raise TypeError(f"the dtype {found.dtype}")
            with np.errstate(over="ignore"):  # infinity is refused below
                values: F32 = found.astype(np.float32, copy=False)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"input: expected numbers, found {type(rows).__name__}: {error}") from None
        if values.shape != expected:
            raise InputError(f"input: expected {list(expected)}, found {list(values.shape)}")
        if not np.isfinite(values).all():
            raise InputError("input: expected finite numbers, found NaN or infinity")
        return values

    # --- faults -------------------------------------------------------------------------------------------------------

    @property
    def faults(self) -> Mapping[int, str]:
        """Agents without an answer to the last tick, and why: those that faulted, and those that are left out."""
        return self._faults

    @property
    def left_out(self) -> Mapping[int, str]:
        """Agents that trapped or ran past their deadline and are not ticked until `reset`, and why."""
        return self._left_out

    def reset(self, agent: int) -> None:
        """A fresh instance for this agent, with the model's weights; it takes part in the next tick.

        Packed, there is nothing to make anew: its weights become the model's.  Raises LocalError for no such agent,
        LimitError past POPULATION_RESETS_MAX.
        """
        with self._alone():
            self._reset(self._index(agent))

    def _reset(self, agent: int) -> None:
        self._members.reset(agent)
        self._left_out.pop(agent, None)

    # --- weights ------------------------------------------------------------------------------------------------------

    def weights(self, agent: int) -> Layers:
        """One agent's layers, (weights float32[inputs, outputs], bias float32[outputs]) each; steepness folded in.

        Raises LocalError where the agent file does not say what its weights mean.
        """
        with self._alone():
            return self._members.weights(self._index(agent))

    def set_weights(self, agent: int, weights: Any) -> None:
        """Replace one agent's weights between two ticks: a Network, a model.Mlp, or [(matrix, bias), ...].

        Its pages of weights are its own from then on.  Raises InputError or ModelError where they do not fit.
        """
        with self._alone():
            index = self._index(agent)
            model = self._source.like(weights)
            self._members.set_weights(index, [(w[None], b[None]) for w, b in (layer.folded for layer in model.layers)])

    def set_all_weights(self, layers: Sequence[tuple[Any, Any]]) -> None:
        """Every agent's weights at once: for each layer weights [count, inputs, outputs] and bias [count, outputs].

        Raises InputError where shapes do not fit or a number is not finite; nothing is written then.
        """
        import numpy as np

        try:
            with np.errstate(over="ignore"):
                stacked = [(np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in layers]
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"weights: expected (weights, bias) a layer, found {error}") from None
        with self._alone():
            self._source.check_stacked(stacked, self.count)
            self._members.set_weights(0, stacked)

    def _index(self, agent: int) -> int:
        if not 0 <= (found := _number(agent)) < self.count:
            raise LocalError(f"agent: expected 0 to {self.count - 1}, found {agent!r}")
        return found

    # --- life ---------------------------------------------------------------------------------------------------------

    def memory(self) -> dict[str, int]:
        """Bytes `held` by the jail and the memory it shares, each once; those of its `page_tables`; and `each`: both by
        agent, the jail's interpreter (some 10 MB) included.  `shared` is part of held; `resident` is what ps shows."""
        self._check_open()  # asks nothing of the jail: also while another thread ticks
        found = self._members.population.memory_bytes()
        return {**found, "each": (found["held"] + found["page_tables"]) // self.count}

    @property
    def started_ms(self) -> float:
        """From the order for the jail until it was ready, compiling excluded."""
        return self._members.population.started_ms

    def _check_open(self) -> None:
        if self._closed:
            raise LocalError("population: it is closed")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Between the jail's pipes there is one question at a time."""
        self._check_open()
        if not self._busy.acquire(blocking=False):
            raise LocalError("population: another thread is at work on it; one thread at a time")
        try:
            yield
        finally:
            self._busy.release()
            if self._closed:
                self.close()

    def close(self) -> None:
        """End the jail: now, or when what another thread asked of it is done.  Arrays stay readable."""
        self._closed = True
        if self._busy.acquire(blocking=False):  # a thread that has it looks at `_closed` when it lets go
            try:
                self._members.close()
            finally:
                self._busy.release()

    def __enter__(self) -> Population:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _number(value: Any) -> int:
    """A whole number of Python's or numpy's; -1 for anything else."""
    try:
        return -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return -1


def _whole(name: str, value: Any) -> int:
    if (number := _number(value)) < 0:
        raise LocalError(f"{name}: expected a whole number from 0, found {value!r}")
    return number
