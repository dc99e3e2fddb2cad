"""`edgeswarm agent import`: a trained model's own file into a signed agent file; what it is, its first bytes say.

Invariant: the same file, options and key give the same bytes, as `agent build`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgeswarm.app.cli import agent_build, common, output, signing
from edgeswarm.errors import LocalError, ModelError
from edgeswarm.ids import is_name
from edgeswarm.limits import KERNEL_BATCH_MAX, KERNEL_WIDTH_MAX, MIB, MODEL_FILE_BYTES_MAX

if TYPE_CHECKING:
    from edgeswarm.agentfile import Header, Section
    from edgeswarm.agentfile.header import GoldenSpec, NeuralConfig
    from edgeswarm.compile import Kernel

GOLDEN_CANDIDATES = 256  # rows looked at for golden ones: nets with steps have rows that float32 cannot decide


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    mode: str | None
    batch_max: int | None
    no_golden: bool
    apply_scaling: bool
    arithmetic: str
    stream: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What an importer makes of a file.

    net: the header's neural_config.  kernel: compile with (batch_max, mode).  golden: rows, and their tolerance.
    sections: besides kernel, weights and golden.  told: what to print, key to value.  notes: worth knowing.
    batch_max: rows of one call where neither the command line nor SRC says.  weights_dtype: u8 for weights that are not
    all float32.  memory: values that come back with the next call.
    """

    net: NeuralConfig
    kernel: Callable[[int, str], Kernel]
    golden: tuple[Section, GoldenSpec] | None
    sections: Mapping[str, Section | bytes]
    told: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())
    batch_max: int | None = None
    weights_dtype: Literal["f32", "u8"] = "f32"
    memory: int = 0


def _fann(data: bytes, options: Options, who: str) -> Found:
    from edgeswarm.app.cli import agent_import_fann

    return agent_import_fann.found(data, options, who)


def _onnx(data: bytes, options: Options, who: str) -> Found:
    from edgeswarm.app.cli import agent_import_onnx

    return agent_import_onnx.found(data, options, who)


def _is_onnx(data: bytes) -> bool:
    """A version of the format, then a field of ONNX's ModelProto; no other format here begins with a control byte."""
    return len(data) > 2 and data[0] == 0x08 and 1 <= data[1] <= 127 and data[2] & 7 in (0, 2)


def _tflite(data: bytes, options: Options, who: str) -> Found:
    from edgeswarm.app.cli import agent_import_tflite

    return agent_import_tflite.found(data, options, who)


IMPORTERS: tuple[tuple[str, Callable[[bytes], bool], Callable[[bytes, Options, str], Found]], ...] = (
    ("FANN .net", lambda data: data.startswith((b"FANN_FLO_", b"FANN_FIX_")), _fann),
    ("TFLite", lambda data: data[4:8] == b"TFL3", _tflite),
    ("ONNX", _is_onnx, _onnx),
)
"""What a file is called, how its first bytes are known, and who reads it."""


@click.command("import")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path, dir_okay=False), help="Default: NAME.af here.")
@click.option("--name", help="The agent's name. Default: that of SRC, else made of MODEL's.")
@click.option("--source", type=click.Path(path_type=Path), metavar="SRC", help="agent.yaml for all but neural_config.")
@click.option("--apply-scaling", is_flag=True, help="Fold a FANN net's scaling in: raw values in, raw values out.")
@click.option(
    "--arithmetic",
    type=click.Choice(["auto", "fast", "libfann"]),
    default="auto",
    show_default=True,
    help="Of a FANN net: libfann's own bits, or fast; auto: fast where that keeps 1e-6.",
)
@click.option("--mode", type=click.Choice(["fast", "deterministic"]), help="Default: what SRC says, else fast.")
@click.option("--batch-max", type=click.IntRange(1, KERNEL_BATCH_MAX), help="Rows of one call. Default: what SRC says.")
@click.option(
    "--stream",
    type=click.IntRange(1, KERNEL_WIDTH_MAX),
    metavar="FRAMES",
    help="Of a causal net over a window: so many frames a call, what came before in the agent's memory.",
)
@click.option("--no-golden", is_flag=True, help="Leave the golden vectors out.")
@signing.key_options
@output.state_option
@output.config_option
@output.json_option
def import_(
    model: Path,
    out: Path | None,
    name: str | None,
    source: Path | None,
    key: Path | None,
    unsigned: bool,
    state: Path | None,
    config_file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make an agent file of a trained model: a TFLite file (float32 or full int8), an ONNX file of PyTorch,
    scikit-learn and others (the extra onnx), or a FANN .net file (FLO or FIX, layered, sparse, of Cascade training).

    Wiring, limits and labels come from SRC, an agent.yaml; without it the agent takes rows from programs.
    The file's date is SOURCE_DATE_EPOCH, else that of MODEL.

    \b
    Examples:
      edgeswarm agent import kws.tflite -o kws.af
      edgeswarm agent import thyroid.net -o thyroid.af
      edgeswarm agent import thyroid.net --source agent.yaml --key site.key
      edgeswarm agent import tcn.onnx --stream 1
      edgeswarm agent import classifier.onnx -o classifier.af
      edgeswarm agent import robot.net --name arm --apply-scaling --json
    """
    from edgeswarm import agentfile

    signing.check(key, unsigned=unsigned)
    data = common.read_file(model, bytes_max=MODEL_FILE_BYTES_MAX, bound="MODEL_FILE_BYTES_MAX", error=ModelError)
    found = _importer(data, model)(data, chosen := Options(**options), str(model))
    header, sections = _assembled(_header(source, name or "", model, found), found, chosen)
    pair = None if unsigned else signing.publisher(key, state, config_file)
    created = agentfile.moment(agent_build.source_date(model, os.environ))
    built = agentfile.build(header, sections, publisher_key=pair.seed if pair else None, created=created)
    kernel = agent_build.check_result(built)
    path = out or Path(f"{header.name}.af")
    common.write_file(path, built)
    for note in found.notes:
        output.note(note)
    row = {
        "path": str(path),
        "name": header.name,
        "agent_version": header.agent_version,
        "size_bytes": len(built),
        "sha256": hashlib.sha256(built).hexdigest(),
        "created": created,
        "publisher": pair.id if pair is not None else None,
        "kernel": kernel,
        "sections": list(sections),
        "found": dict(found.told),
        "notes": list(found.notes),
    }
    output.emit(row, as_json=as_json, text=lambda: _text(row, found))


def _importer(data: bytes, path: Path) -> Callable[[bytes, Options, str], Found]:
    for _, is_one, read in IMPORTERS:
        if is_one(data):
            return read
    known = ", ".join(name for name, _, _ in IMPORTERS)
    raise ModelError(f"expected one of {known}, found a file that begins with {data[:16]!r}", who=str(path))


def _header(source: Path | None, name: str, path: Path, found: Found) -> Header:
    """The header of SRC, or a plain one, for what was found."""
    from edgeswarm.agentfile import Header

    if name and not is_name(name):
        raise LocalError(f"--name: expected 1 to 64 of a-z, 0-9, -, a letter first, found {name!r}")
    if source is not None:
        header = agent_build.read_source(source)
        here, there = (header.neural_config.input_size, header.neural_config.output_size), found.net
        if here != (there.input_size, there.output_size):
            raise ModelError(
                f"neural_config of {source}: expected input_size {there.input_size} and output_size "
                f"{there.output_size}, found {here[0]} and {here[1]}",
                who=str(path),
            )
        if found.memory and header.memory.width != found.memory:
            raise ModelError(
                f"memory of {source}: expected width {found.memory}, found {header.memory.width}", who=str(path)
            )
        return replace(header, name=name or header.name, neural_config=found.net)
    made = re.sub("[^a-z0-9-]+", "-", path.stem.lower()).strip("-")[:64]
    made = made if is_name(made) else f"net-{made}"[:64].rstrip("-")
    header = Header(version="1.0", name=name or made, neural_config=found.net)
    header = replace(header, memory=replace(header.memory, width=found.memory))
    return replace(header, kernel=replace(header.kernel, batch_max=found.batch_max or header.kernel.batch_max))


def _assembled(header: Header, found: Found, options: Options) -> tuple[Header, dict[str, Section | bytes]]:
    """The header with what the kernel decides, and the sections."""
    from edgeswarm.agentfile import Section

    kernel = found.kernel(options.batch_max or header.kernel.batch_max, options.mode or header.kernel.mode)
    layout = kernel.layout
    sections: dict[str, Section | bytes] = {"wasm_kernel": kernel.wasm, **found.sections}
    shape = layout.weights.shape if found.weights_dtype == "f32" else (len(kernel.weights),)
    sections["neural_weights"] = Section(kernel.weights, found.weights_dtype, shape)
    chosen = replace(
        header.kernel,
        mode="deterministic" if layout.deterministic else "fast",
        batch_max=layout.batch_max,
        topology=layout.topology,
    )
    limits = header.resources.limits
    limits = replace(limits, memory_mb=max(limits.memory_mb, -(-layout.memory_bytes // MIB)))
    header = replace(header, kernel=chosen, resources=replace(header.resources, limits=limits))
    if found.golden is not None and not options.no_golden:
        sections["golden"], spec = found.golden
        header = replace(header, golden=spec)
    return header, sections


def _text(row: dict[str, Any], found: Found) -> str:
    signed = f"signed by {row['publisher']}" if row["publisher"] else "not signed: `edgeswarm agent sign` does it"
    shown = {key: value for key, value in found.told.items() if value is not None}
    lines = [f"{key.replace('_', ' ')}: {_shown(value)}" for key, value in shown.items()]
    return "\n".join(
        [
            f"{row['path']}: agent {row['name']} {row['agent_version']}, {output.size(row['size_bytes'])}, {signed}",
            *(f"  {line}" for line in lines),
            f"sha256 {row['sha256']}",
            f"next: edgeswarm agent verify {row['path']}",
        ]
    )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
