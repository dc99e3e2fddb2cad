"""An ONNX file as `agent import` wants it."""

from __future__ import annotations

from edgeswarm.app.cli import agent_import_graph
from edgeswarm.app.cli.agent_import import Found, Options
from edgeswarm.errors import LocalError


def found(data: bytes, options: Options, who: str) -> Found:
    """Raises ModelError naming the step and what can be done, LimitError, LocalError without the extra `onnx`."""
    from edgeswarm.model.onnx import imported

    if options.apply_scaling or options.arithmetic != "auto":
        raise LocalError(f"{who}: --apply-scaling and --arithmetic are for FANN nets, found an ONNX file")
    made = imported(data, who=who)
    told = {
        "format": f"ONNX, opset {made.opset}" + (f", by {made.producer}" if made.producer else ""),
        "operators": [f"{count} {name}" for name, count in made.operators.items()],
        "input": "x".join(map(str, made.input_shape)),
        "output": "x".join(map(str, made.output_shape)) or "1",
    }
    return agent_import_graph.found(
        made.graph, told=told, notes=made.notes, golden=not options.no_golden, stream=options.stream
    )
