"""`edgeswarm agent build`: agent.yaml and a model, or a wasm module, into one signed agent file.

Invariant: the same source, weights, options and key give the same bytes: no clock (SOURCE_DATE_EPOCH, else the
source's modification time), no randomness.  What is written has been read back and its kernel held against its header.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import agent_quantize, common, output, signing
from edgeswarm.errors import AgentFileError, ConfigError, KernelError, LocalError, ModelError
from edgeswarm.limits import AF_HEADER_BYTES_MAX, AF_SECTION_BYTES_MAX, KERNEL_BATCH_MAX, KERNEL_WASM_BYTES_MAX

if TYPE_CHECKING:
    from edgeswarm.agentfile import Header, Section
    from edgeswarm.compile import Kernel
    from edgeswarm.model import Mlp

GOLDEN_ROWS = 16  # enough to meet every layer's tail lanes; a kilobyte or two
GOLDEN_SEED = 1
STEPS = 5  # of the progress bar
_EPOCH_MAX = 253_402_300_799  # 9999-12-31T23:59:59Z, the last moment that RFC 3339 can write


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    weights: Path | None
    random_seed: int | None
    wasm: Path | None
    mode: str | None
    batch_max: int | None
    training_data: Path | None
    golden: Path | None
    no_golden: bool
    quantize: agent_quantize.Wanted

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        if self.wasm is not None and self.random_seed is not None:
            raise click.UsageError("--wasm brings its own code: give --weights if it has a weights region, no seed")
        if self.wasm is None and (self.weights is None) == (self.random_seed is None):
            raise click.UsageError("name one of --weights FILE, --random-seed N, or --wasm X")
        if self.wasm is not None and (self.mode is not None or self.batch_max is not None):
            raise click.UsageError(
                "--mode and --batch-max are for kernels made here; those of --wasm are in its layout"
            )
        if self.wasm is not None and self.quantize.quantize is not None:
            raise click.UsageError("--quantize is for kernels made here; --wasm brings its own")
        if self.golden is not None and self.no_golden:
            raise click.UsageError("--golden and --no-golden contradict each other")


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="SRC")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path, dir_okay=False), help="Default: NAME.af here.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Model: .npz (w0, b0, w1, ...) or .json; beside --wasm also .bin (the region's bytes).",
)
@click.option(
    "--random-seed", type=click.IntRange(0), metavar="N", help="Random weights from this seed, to try things."
)
@click.option("--wasm", type=click.Path(path_type=Path), help="Kernel of your own: .wasm or .wat that keeps the ABI.")
@click.option("--mode", type=click.Choice(["fast", "deterministic"]), help="Default: what SRC says, else fast.")
@click.option("--batch-max", type=click.IntRange(1, KERNEL_BATCH_MAX), help="Rows of one call. Default: what SRC says.")
@click.option("--training-data", type=click.Path(path_type=Path), help="Carry this file in section training_data.")
@click.option("--golden", type=click.Path(path_type=Path), help="Table of golden rows: inputs, then expected outputs.")
@click.option("--no-golden", is_flag=True, help="Leave the golden vectors out.")
@agent_quantize.quantize_options
@signing.key_options
@output.state_option
@output.config_option
@output.json_option
def build(
    source: Path,
    out: Path | None,
    key: Path | None,
    unsigned: bool,
    state: Path | None,
    config_file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile the model of SRC (an agent.yaml) into a signed agent file.

    The same input gives the same bytes; the file's date is SOURCE_DATE_EPOCH, else that of SRC.

    \b
    Examples:
      edgeswarm agent build demo/agent.yaml --weights demo/weights.npz -o demo.af
      edgeswarm agent build demo/agent.yaml --random-seed 1 --mode deterministic
      edgeswarm agent build demo/agent.yaml --wasm kernel.wat --golden rows.csv
      edgeswarm agent build demo/agent.yaml --weights demo/weights.npz --quantize int8 --calibrate rows.csv
    """
    from edgeswarm import agentfile

    wanted = agent_quantize.Wanted.take(options)
    chosen = Options(**options, quantize=wanted)
    chosen.check()
    signing.check(key, unsigned=unsigned)
    header = read_source(source)
    pair = None if unsigned else signing.publisher(key, state, config_file)
    with output.progress(STEPS, "building", quiet=as_json) as step:
        created = agentfile.moment(source_date(source, os.environ))
        step(1)
        header, sections, quantized = sections_of(header, chosen, step)
        seed = pair.seed if pair is not None else None
        data = agentfile.build(header, sections, publisher_key=seed, created=created)
        kernel = check_result(data)
        step(1)
        path = out or Path(f"{header.name}.af")
        common.write_file(path, data)
        step(1)
    digest = hashlib.sha256(data).hexdigest()
    row = {
        "path": str(path),
        "name": header.name,
        "agent_version": header.agent_version,
        "size_bytes": len(data),
        "sha256": digest,
        "created": created,
        "publisher": pair.id if pair is not None else None,
        "kernel": kernel,
        "sections": list(sections),
        "quantization": quantized.row if quantized is not None else None,
    }
    signed = f"signed by {pair.id}" if pair is not None else "not signed: `edgeswarm agent sign` does it"
    text = (
        f"{path}: agent {header.name} {header.agent_version}, {output.size(len(data))}, {signed}\n"
        f"sha256 {digest}\nnext: edgeswarm agent verify {path}"
    )
    output.emit(row, as_json=as_json, text=lambda: text)


def read_source(path: Path) -> Header:
    """The header in `path`.  Raises AgentFileError with every fault and its line."""
    from edgeswarm import agentfile

    data = common.read_file(path, bytes_max=AF_HEADER_BYTES_MAX, bound="AF_HEADER_BYTES_MAX", error=AgentFileError)
    if data.startswith(b"%EdgeSwarm-AF"):
        raise AgentFileError("expected an agent.yaml, found an agent file; `agent show` shows it", who=str(path))
    warnings: list[str] = []
    header = agentfile.parse_header(data, who=str(path), warnings=warnings)
    for text in warnings:
        output.warn(f"{path}: {text}")
    if header.sections:
        raise AgentFileError("sections: expected none in a source; `agent build` makes them", who=str(path))
    return header


def source_date(path: Path, environ: Any) -> int:
    """Seconds since 1970: SOURCE_DATE_EPOCH, else the modification time of `path`.  Raises ConfigError."""
    text = environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return min(max(int(path.stat().st_mtime), 0), _EPOCH_MAX)
    if not (text.isascii() and text.isdigit() and len(text) < 13 and int(text) <= _EPOCH_MAX):
        raise ConfigError(f"environment SOURCE_DATE_EPOCH: expected seconds since 1970, found {text[:40]!r}")
    return int(text)


def sections_of(
    header: Header, options: Options, step: Callable[[int], None]
) -> tuple[Header, dict[str, Section | bytes], agent_quantize.Quantized | None]:
    """The header with what the kernel decides, the sections, and what 8 bits cost.  `step` is called twice."""
    from edgeswarm.agentfile import Section

    model = model_of(header, options)
    quantized: agent_quantize.Quantized | None = None
    if options.quantize.quantize is not None:
        assert model is not None
        mode, batch_max = options.mode or header.kernel.mode, options.batch_max or header.kernel.batch_max
        quantized = agent_quantize.quantized(header, model, options.quantize, mode=mode, batch_max=batch_max)
        kernel = quantized.kernel
    elif options.wasm is None:
        assert model is not None
        kernel = _compile(header, model, options)
    else:
        kernel = _take_kernel(options, model)
    step(1)
    chosen = replace(
        header.kernel,
        mode="deterministic" if kernel.layout.deterministic else "fast",
        batch_max=kernel.layout.batch_max,
        topology=kernel.layout.topology,
        quantization=quantized.block if quantized is not None else None,
    )
    sections: dict[str, Section | bytes] = {"wasm_kernel": kernel.wasm}
    if kernel.weights:
        floats = Section(kernel.weights, "f32", kernel.layout.weights.shape)
        sections["neural_weights"] = (
            floats if quantized is None else Section(kernel.weights, "u8", (len(kernel.weights),))
        )
    if not options.no_golden and (golden := _golden(header, options, model, quantized)) is not None:
        sections["golden"] = golden
    if options.training_data is not None:
        sections["training_data"] = common.read_file(
            options.training_data, bytes_max=AF_SECTION_BYTES_MAX, bound="AF_SECTION_BYTES_MAX", error=LocalError
        )
    step(1)
    if model is not None:
        from edgeswarm.app.builder import steepness_of

        net = replace(header.neural_config, steepness=tuple(steepness_of(model)))
        header = replace(header, neural_config=net)
    return replace(header, kernel=chosen), sections, quantized


def model_of(header: Header, options: Options) -> Mlp | None:
    """The model that the options name, once it is what the header says; None for a kernel that brings raw weights.

    A steepness of the header holds for weights whose file names none.
    Raises ModelError saying which width, activation or steepness differs.
    """
    net = header.neural_config
    sizes = (net.input_size, *net.hidden_layers, net.output_size)
    if options.wasm is not None and (options.weights is None or options.weights.suffix == ".bin"):
        return None
    if net.network_type != "feedforward" and options.wasm is None:
        raise ModelError(f"neural_config.network_type {net.network_type}: its code comes with --wasm", who=header.name)
    from edgeswarm import model

    if options.random_seed is not None:
        plain = model.random_mlp(sizes, net.activation_function, net.output_activation, options.random_seed)
        return _with_steepness(plain, net.steepness, header.name)
    assert options.weights is not None
    found = _load_model(options.weights, net.activation_function, net.output_activation)
    if found.sizes != sizes:
        raise ModelError(
            f"layers: expected the widths {list(sizes)} of neural_config, found {list(found.sizes)}",
            who=str(options.weights),
        )
    activations = (*[net.activation_function] * len(net.hidden_layers), net.output_activation)
    if found.activations != activations:
        raise ModelError(
            f"activations: expected {', '.join(activations)} as in neural_config, found {', '.join(found.activations)}",
            who=str(options.weights),
        )
    return _with_steepness(found, net.steepness, str(options.weights))


def _with_steepness(found: Mlp, wanted: tuple[float, ...], who: str) -> Mlp:
    """`found` with the header's steepness, if its own is 1 everywhere or the same; else ModelError."""
    if not wanted:
        return found
    layers = tuple(replace(layer, steepness=value) for layer, value in zip(found.layers, wanted, strict=True))
    model = replace(found, layers=layers)
    if found.steepness not in ((1.0,) * len(layers), model.steepness):
        said = ", ".join(map(str, found.steepness))
        raise ModelError(
            f"steepness: expected {', '.join(map(str, wanted))} as in neural_config, found {said}", who=who
        )
    return model


def _load_model(path: Path, activation: str, output_activation: str) -> Mlp:
    from edgeswarm import model

    match path.suffix:
        case ".json":
            return model.load_json(path)
        case ".npz":
            named = _names_activations(path)
            return model.load_npz(path) if named else model.load_npz(path, activation, output_activation)
        case _:
            raise LocalError(f"weights {path}: expected a name that ends in .npz or .json")


def _names_activations(path: Path) -> bool:
    """Whether a .npz file says which activations it wants; what is wrong with it is left to who reads it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "activations.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False


def _compile(header: Header, model: Mlp, options: Options) -> Kernel:
    from edgeswarm.compile import compile_mlp

    return compile_mlp(
        model,
        batch_max=options.batch_max or header.kernel.batch_max,
        mode=options.mode or header.kernel.mode,
    )


def _take_kernel(options: Options, model: Mlp | None) -> Kernel:
    """A kernel that somebody else made, checked.  Raises KernelError, LimitError, ModelError."""
    from edgeswarm.compile import Kernel, check_module, pack_weights

    assert options.wasm is not None
    who = str(options.wasm)
    wasm = common.read_file(
        options.wasm, bytes_max=KERNEL_WASM_BYTES_MAX, bound="KERNEL_WASM_BYTES_MAX", error=KernelError
    )
    if not wasm.startswith(b"\0asm"):
        wasm = _assemble(wasm, who)
    layout = check_module(wasm, who=who)
    if model is not None:
        return Kernel(wasm, layout, pack_weights(model, layout))
    weights = b""
    if options.weights is not None:
        weights = common.read_file(
            options.weights, bytes_max=AF_SECTION_BYTES_MAX, bound="AF_SECTION_BYTES_MAX", error=ModelError
        )
    if len(weights) != layout.weights.size:
        found = f"found {len(weights)}" if options.weights is not None else "found none; give --weights FILE.bin"
        raise ModelError(f"weights: expected the {layout.weights.size} bytes of the kernel's region, {found}", who=who)
    return Kernel(wasm, layout, weights)


def _assemble(text: bytes, who: str) -> bytes:
    import wasmtime

    try:
        return bytes(wasmtime.wat2wasm(text))
    except (wasmtime.WasmtimeError, UnicodeDecodeError) as error:
        raise KernelError(f"expected a wasm module or its text, found {str(error).splitlines()[0]}", who=who) from None


def _golden(
    header: Header, options: Options, model: Mlp | None, quantized: agent_quantize.Quantized | None
) -> Section | None:
    """Rows with the answers that the kernel must give: from a file, or computed by the reference."""
    from edgeswarm.agentfile import Section

    width = header.neural_config.input_size + header.neural_config.output_size
    if options.golden is not None:
        from edgeswarm.app.cli import tables

        rows, data = 0, bytearray()
        with tables.open_rows(str(options.golden), width=width) as reader:
            for batch in reader.batches(256):
                data += batch.payload
                rows += batch.rows
                if len(data) > AF_SECTION_BYTES_MAX:
                    raise LocalError(f"golden {options.golden}: at most {AF_SECTION_BYTES_MAX} bytes of float32")
        return Section(bytes(data), "f32", (rows, width))
    if model is None:
        output.note("no golden vectors: nothing says what this kernel should compute; --golden FILE brings some")
        return None
    from edgeswarm.compile import make_golden

    if quantized is not None:
        from edgeswarm.model.calibrate import golden_rows

        golden = golden_rows(quantized.model, GOLDEN_ROWS, GOLDEN_SEED)
    else:
        golden = make_golden(model, GOLDEN_ROWS, GOLDEN_SEED)
    return Section(golden.astype("<f4").tobytes(), "f32", golden.shape)


def check_result(data: bytes) -> dict[str, Any]:
    """What a device would say: the kernel's layout, once it fits the header and its limits.  Raises KernelError."""
    from dataclasses import asdict

    from edgeswarm import agentfile
    from edgeswarm.app.shelf import check_kernel

    file = agentfile.read(data, who="the file built")
    return asdict(check_kernel(file, who=file.header.name))
