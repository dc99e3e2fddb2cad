"""A Net as the text that libfann would write for it, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable

from edgeswarm.model.fann.net import CONNECTIONS, NEURONS, PARAMETERS, Net, Value

VALUE = "%.20e"  # enough digits for every double, and so for every float


def write(net: Net) -> bytes:
    """The bytes of the file."""
    value = "%d" if net.fixed else VALUE
    formats = {"count": "%d", "counts": "%d", "real": "%f", "reals": "%f", "value": value, "values": value}
    lines = [net.version]
    lines += [f"{name}={_text(formats[PARAMETERS[name]], item)}" for name, item in net.parameters.items()]
    neurons = zip(net.num_inputs.tolist(), net.activations.tolist(), net.steepness.tolist(), strict=True)
    lines.append(f"{NEURONS}={_joined(f'(%d, %d, {value}) ', neurons)}")
    connections = zip(net.sources.tolist(), net.weights.tolist(), strict=True)
    lines.append(f"{CONNECTIONS}={_joined(f'(%d, {value}) ', connections)}")
    return ("\n".join(lines) + "\n").encode("ascii")


def _text(form: str, value: Value) -> str:
    if isinstance(value, tuple):
        return "".join(form % item + " " for item in value)
    return form % value


def _joined(form: str, items: Iterable[tuple[float, ...]]) -> str:
    return "".join([form % item for item in items])
