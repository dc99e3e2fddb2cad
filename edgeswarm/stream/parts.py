"""From an agent's wiring to the parts of its pipeline, checked against sources and kernel before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeswarm.agentfile.wiring import Queue, Wiring
from edgeswarm.errors import ConfigError
from edgeswarm.stream.decide import Decider
from edgeswarm.stream.join import Inlet, Intake, make_intake
from edgeswarm.stream.normalize import Normalizer
from edgeswarm.stream.score import Scorer, emit_width
from edgeswarm.stream.window import Window


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pipeline is made of."""

    wiring: Wiring
    intake: Intake
    normalizer: Normalizer
    window: Window
    scorer: Scorer
    decider: Decider
    emit_width: int
    inlet_names: tuple[str, ...]
    """Ids of the sources, in the order of their index."""


def make_parts(wiring: Wiring, *, source_widths: Sequence[int], frame_width: int, output_width: int) -> Parts:
    """The parts for a kernel that takes `frame_width` values.  A wiring without sources gets one inlet, as from `api`.

    Raises ConfigError when wiring, sources and kernel do not fit together."""
    if len(source_widths) != len(wiring.sources):
        raise ConfigError(f"wiring.sources: {len(wiring.sources)} of them, but {len(source_widths)} widths")
    rows = wiring.window.rows
    queues = [source.queue for source in wiring.sources]
    if not queues:  # the agent answers only what programs ask it
        queues, source_widths = [Queue()], [max(1, frame_width // rows)]
    inlets = [Inlet(width, queue.policy, queue.rows) for width, queue in zip(source_widths, queues, strict=True)]
    intake = make_intake(inlets, wiring.join)
    width = intake.width
    if rows * width != frame_width:
        raise ConfigError(
            f"wiring: a window of {rows} rows with {width} values makes frames of {rows * width}, "
            f"but the kernel takes {frame_width}"
        )
    norm, score, decision = wiring.normalize, wiring.score, wiring.decision
    return Parts(
        wiring=wiring,
        intake=intake,
        normalizer=Normalizer(
            norm.method,
            width,
            warmup_rows=norm.warmup_rows,
            mean=norm.mean,
            std=norm.std,
            low=norm.low,
            high=norm.high,
            clip=norm.clip,
            mean_min=norm.mean_min,
            mean_max=norm.mean_max,
            std_min=norm.std_min,
            std_max=norm.std_max,
        ),
        window=Window(rows, wiring.window.hop, width),
        scorer=Scorer(
            score.type, index=score.index, rows=rows, width=width, output_width=output_width, emit=wiring.emit
        ),
        decider=Decider(
            decision.type,
            outputs=output_width,
            labels=decision.labels,
            above=decision.above,
            below=decision.below,
            high=decision.high,
            low=decision.low,
            delta=decision.delta,
            hold=decision.hold,
        ),
        emit_width=emit_width(wiring.emit, width=width, output_width=output_width),
        inlet_names=wiring.source_ids() or ("api",),
    )
