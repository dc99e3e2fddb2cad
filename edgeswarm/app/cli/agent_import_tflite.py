"""A TFLite file as `agent import` wants it: the graph, golden rows, what to tell; the file goes along for delegates."""

from __future__ import annotations

from edgeswarm.app.cli import agent_import_graph
from edgeswarm.app.cli.agent_import import Found, Options
from edgeswarm.errors import LocalError
from edgeswarm.limits import AF_FILE_BYTES_MAX

CARRIED_BYTES_MAX = AF_FILE_BYTES_MAX // 3  # beside its weights as the kernel has them, which may be twice as long
EXACT = "8-bit, LiteRT's reference kernels to the bit"


def found(data: bytes, options: Options, who: str) -> Found:
    """Raises ModelError with the operator, LimitError, LocalError for options of other formats."""
    from edgeswarm.model.tflite.convert import load

    if options.apply_scaling or options.arithmetic != "auto":
        raise LocalError(f"{who}: --apply-scaling and --arithmetic are for FANN nets, found a TFLite file")
    made = load(data, who=who)
    graph = made.graph
    carried, notes = len(data) <= CARRIED_BYTES_MAX, made.notes
    if not carried:
        notes = (
            *notes,
            f"the file itself is left out, so that no delegate can compute it: over {CARRIED_BYTES_MAX} bytes",
        )
    told = {
        "format": "TFLite",
        "operators": [f"{count} {name}" for name, count in sorted(made.operators.items())],
        "input": agent_import_graph.shape_text(graph, graph.input),
        "output": agent_import_graph.shape_text(graph, graph.output),
        "arithmetic": EXACT if made.exact else "8-bit and float32" if "i8" in made.computed else "float32",
    }
    return agent_import_graph.found(
        graph,
        told=told,
        notes=notes,
        sections={"tflite": data} if carried else {},
        golden=not options.no_golden,
        stream=options.stream,
    )
