"""The two kinds of a population's agents behind one interface: isolated instances, and nets packed into one memory.

Both own their jail (and the zygote behind it, unless one was lent), and show its memory as arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeswarm.app.lone import open_host
from edgeswarm.app.population_source import Source
from edgeswarm.drivers.jail_population import PopulationSpec, SyncPopulation, spans_of
from edgeswarm.errors import LimitError, TrapError
from edgeswarm.limits import (
    KERNEL_MEMORY_BYTES_MAX,
    POPULATION_INSTANCES_MAX,
    POPULATION_PACKED_DEADLINE_MS_DEFAULT,
    POPULATION_PACKED_RESETS_MAX,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeswarm.drivers.jail_sync import SyncHost

    F32 = NDArray[np.float32]
    Layers = list[tuple[F32, F32]]
Faults = dict[int, str]


class _Members:
    """The jail, and views of what it shares.  `answers`: the outputs, writable, to mark those that are none."""

    def __init__(self, host: SyncHost | None) -> None:
        self._own_host = open_host() if host is None else None
        self._host = host or self._own_host
        self.population: SyncPopulation

    def _start(self, make: Any) -> None:
        """make: host -> SyncPopulation.  The zygote does not outlive a failure."""
        try:
            self.population = make(self._host)
        except BaseException:
            self._close_host()
            raise

    def _show(self, inputs: F32, outputs: F32) -> None:
        self.inputs, self.answers = inputs, outputs
        self.outputs = outputs.view()
        self.outputs.flags.writeable = False

    def close(self) -> None:
        self.population.close()
        self._close_host()

    def _close_host(self) -> None:
        if self._own_host is not None:
            self._own_host.close()


class Isolated(_Members):
    """Each agent an instance; inputs and outputs are the pages of its memory where its kernel has them."""

    def __init__(
        self, source: Source, count: int, *, deadline_ms: int, memory_limit_bytes: int, host: SyncHost | None
    ) -> None:
        if count > POPULATION_INSTANCES_MAX:
            raise LimitError(
                f"count: at most {POPULATION_INSTANCES_MAX} isolated agents (POPULATION_INSTANCES_MAX), found {count}; "
                "isolation=packed takes millions"
            )
        import numpy as np

        from edgeswarm.compile.packed import driver_wasm

        self._source = source
        kernel = self._kernel = source.kernel()
        layout = kernel.layout
        if memory_limit_bytes and not layout.memory_bytes <= memory_limit_bytes <= KERNEL_MEMORY_BYTES_MAX:
            raise LimitError(
                f"memory_limit_bytes: expected {layout.memory_bytes}, what the kernel needs, to "
                f"{KERNEL_MEMORY_BYTES_MAX} (KERNEL_MEMORY_BYTES_MAX), found {memory_limit_bytes}"
            )
        places = (layout.input, layout.output)
        spans = spans_of(*((place.offset, place.offset + 4 * place.width) for place in places))
        super().__init__(host)

        def make(zygote: SyncHost) -> SyncPopulation:
            spec = PopulationSpec(
                name=source.name,
                count=count,
                cwasm=zygote.compile(kernel.wasm),
                driver=zygote.compile(driver_wasm()),
                spans=spans,
                weights=kernel.weights,
                weights_offset=layout.weights.offset,
                memory_bytes=layout.memory_bytes,
                memory_limit_bytes=memory_limit_bytes,
                deadline_ms=deadline_ms or source.deadline_ms,
            )
            return SyncPopulation(zygote, spec, policy=source.policy)

        self._start(make)
        link, stride = self.population.link, self.population.spec.stride
        floats = np.frombuffer(link.view, np.float32, count * stride // 4, link.spans_at).reshape(count, -1)
        views = []
        for place in places:  # spans lie one behind the other
            before = sum(span.size for span in spans if span.end <= place.offset)
            span = next(span for span in spans if span.first <= place.offset < span.end)
            at = (before + place.offset - span.first) // 4
            views.append(floats[:, at : at + place.width])
        self._show(views[0], views[1])

    def tick(self) -> Faults:
        return {fault.agent: fault.text for fault in self.population.tick()}

    def reset(self, agent: int) -> None:
        row = self.inputs[agent].copy()  # what it was given is the host's, not the instance's that fell
        self.population.reset(agent)
        self.inputs[agent] = row

    def weights(self, agent: int) -> Layers:
        self._source.known()
        return self._source.layers_of(self.population.weights_of(agent))

    def set_weights(self, first: int, layers: Layers) -> None:
        """Of as many agents as the layers are stacked of, from `first` on."""
        for number in range(len(layers[0][0])):
            one = self._source.like([(w[number], b[number]) for w, b in layers])
            self.population.set_weights(first + number, self._source.packed_bytes(one, self._kernel))


class Packed(_Members):
    """All agents in one instance, whose whole memory is shared: weights too are written from here."""

    def __init__(self, source: Source, count: int, *, deadline_ms: int, host: SyncHost | None) -> None:
        from edgeswarm.compile.packed import compile_packed, driver_wasm, fill_weights, stacked

        model = source.known()
        kernel = compile_packed(model, count, mode=source.mode)
        self.layout = kernel.layout
        self._first = stacked(model)
        super().__init__(host)

        def make(zygote: SyncHost) -> SyncPopulation:
            spec = PopulationSpec(
                name=source.name,
                count=1,
                cwasm=zygote.compile(kernel.wasm),
                driver=zygote.compile(driver_wasm()),
                spans=spans_of((0, kernel.layout.memory_bytes)),
                weights=b"",
                weights_offset=0,
                memory_bytes=kernel.layout.memory_bytes,
                filled=True,
                resets_max=POPULATION_PACKED_RESETS_MAX,
                deadline_ms=deadline_ms or POPULATION_PACKED_DEADLINE_MS_DEFAULT,
            )
            return SyncPopulation(zygote, spec, policy=source.policy)

        self._start(make)
        layout = self.layout
        self._weights = self._floats(layout.weights_offset, layout.groups, layout.group_bytes // 4)
        fill_weights(self._weights, layout, self._first)
        self._show(
            self._floats(layout.input_offset, count, layout.inputs),
            self._floats(layout.output_offset, count, layout.outputs),
        )

    def _floats(self, offset: int, rows: int, width: int) -> F32:
        import numpy as np

        link = self.population.link
        return np.frombuffer(link.view, np.float32, rows * width, link.spans_at + offset).reshape(rows, width)

    def tick(self) -> Faults:
        """Raises TrapError when the whole fell: nobody is to blame, and the next tick may work."""
        faults = self.population.tick()
        if faults:
            self.population.reset(0)
            raise TrapError(f"packed population: {faults[0].text}")
        return {}

    def reset(self, agent: int) -> None:
        self.set_weights(agent, self._first)

    def weights(self, agent: int) -> Layers:
        from edgeswarm.compile.packed import read_weights

        return read_weights(self._weights, self.layout, agent)

    def set_weights(self, first: int, layers: Layers) -> None:
        from edgeswarm.compile.packed import write_weights

        write_weights(self._weights, self.layout, layers, first=first)
