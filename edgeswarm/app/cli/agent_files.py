"""`edgeswarm agent show|verify|sign`: looking at agent files and whose they are.  No supervisor is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeswarm.app.cli import common, limits_view, output, signing
from edgeswarm.errors import ConfigError, EdgeSwarmError, NotSignedError, UnknownPublisherError

if TYPE_CHECKING:
    from edgeswarm.agentfile import AgentFile
    from edgeswarm.agentfile.header import Quantization
    from edgeswarm.ids import KeyId

trust_option = click.option(
    "--trust",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Publishers to trust: DIR/*.pub.  Default: trust.d of the state directory.",
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@click.option("--graph", is_flag=True, help="The model's layers: shapes, MACs, memory, and the time of each here.")
@trust_option
@output.state_option
@output.config_option
@output.json_option
def show(
    file: Path, graph: bool, trust: Path | None, state: Path | None, config_file: Path | None, as_json: bool
) -> None:
    """Show what an agent file holds: header, sections, signature, the kernel's layout, warnings.

    The file's hashes are checked; whether it runs is what `agent verify` says.  --graph shows the model instead, made
    anew from the file and run in this process on its first golden row.

    \b
    Examples:
      edgeswarm agent show demo.af
      edgeswarm agent show demo.af --json | jq .layout.batch_max
      edgeswarm agent show demo.af --graph
    """
    if graph:
        from edgeswarm.app.cli import agent_graph

        agent_graph.show(file, as_json=as_json)
        return
    from edgeswarm import agentfile, schema

    found = agentfile.read(common.read_agent_file(file), who=str(file))
    trusted = trusted_publishers(trust, state, config_file)
    row = {
        "path": str(file),
        "size_bytes": found.size_bytes,
        "sha256": found.sha256,
        "header": schema.encode(found.header),
        "signature": signature_of(found, trusted),
        "layout": layout_of(found),
        "limits": limits_view.here(found.header, common.settings_of(state, config_file)),
        "warnings": list(found.warnings),
    }
    output.emit(row, as_json=as_json, text=lambda: summary(found, row))


def trusted_publishers(trust: Path | None, state: Path | None, config_file: Path | None) -> dict[KeyId, bytes]:
    """Key id -> public key.  Raises ConfigError for a folder that is not there, and for a file that holds no key."""
    from edgeswarm.drivers import keys

    if trust is not None and not trust.is_dir():
        raise ConfigError(f"--trust {trust}: expected a folder with *.pub files, found none")
    return keys.trusted(trust or common.settings_of(state, config_file).state_dir / "trust.d")


def signature_of(file: AgentFile, trusted: dict[KeyId, bytes]) -> dict[str, Any]:
    """state: trusted, unknown (nobody here knows the publisher), none, or broken; and the publisher it names."""
    from edgeswarm import agentfile

    publisher = file.signature.publisher if file.signature is not None else None
    try:
        agentfile.verify(file, trusted)
    except NotSignedError:
        return {"state": "none", "publisher": None}
    except UnknownPublisherError:
        return {"state": "unknown", "publisher": publisher}
    except EdgeSwarmError as error:
        return {"state": "broken", "publisher": publisher, "detail": str(error)}
    return {"state": "trusted", "publisher": publisher}


def layout_of(file: AgentFile) -> dict[str, Any] | None:
    """The kernel's layout; None without a kernel, {"error": ...} for one that cannot be read."""
    from edgeswarm.compile import read_layout

    wasm = file.sections.get("wasm_kernel")
    if wasm is None:
        return None
    try:
        return asdict(read_layout(wasm, who=file.who))
    except EdgeSwarmError as error:
        return {"error": str(error)}


_STATES = {
    "trusted": "publisher {publisher}, trusted here",
    "unknown": "publisher {publisher}, not trusted here: `run` and `deploy` refuse it",
    "none": "not signed: `run` and `deploy` refuse it",
    "broken": "BROKEN: {detail}",
}


def summary(file: AgentFile, row: dict[str, Any]) -> str:
    """An agent file on one screen."""
    return "\n".join(
        [*output.table(("what", "is"), _facts(file, row)).splitlines(), "", *_sections(file), *_warnings(row)]
    )


def _facts(file: AgentFile, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    header, net, layout = file.header, file.header.neural_config, row["layout"]
    wiring, limits, needs = header.wiring, header.resources.limits, header.resources.requirements
    yield "agent", f"{header.name} {header.agent_version}"
    if header.description:
        yield "description", header.description
    yield "created", f"{header.created or '-'}{f' by {header.author}' if header.author else ''}"
    yield "file", f"{row['path']}, {output.size(row['size_bytes'])}, sha256 {row['sha256']}"
    yield "signature", _STATES[row["signature"]["state"]].format(**row["signature"])
    widths = "-".join(map(str, (net.input_size, *net.hidden_layers, net.output_size)))
    steep = f", steepness {' '.join(f'{value:g}' for value in net.steepness)}" if net.steepness else ""
    yield "net", f"{net.network_type} {widths}, {net.activation_function}, output {net.output_activation}{steep}"
    if header.kernel.quantization is not None:
        yield "quantization", _quantization(header.kernel.quantization)
    if layout is None:
        yield "kernel", "none: the file describes an agent and cannot run it"
    elif "error" in layout:
        yield "kernel", f"BROKEN: {layout['error']}"
    else:
        mode = "deterministic" if layout["deterministic"] else "fast"
        memory = output.size(layout["memory_bytes"])
        deadline = f"deadline {header.kernel.deadline_ms} ms"
        yield (
            "kernel",
            f"ABI {layout['abi']}, {mode}, up to {layout['batch_max']} rows a call, memory {memory}, {deadline}",
        )
        yield "layout", ", ".join(_region(name, layout[name]) for name in ("input", "output", "weights"))
        yield "topology", layout["topology"]
    yield "sources", ", ".join(wiring.source_ids()) or "none: programs ask it"
    yield "window", f"{wiring.window.rows} rows, hop {wiring.window.hop}, normalisation {wiring.normalize.method}"
    yield "decision", f"{wiring.decision.type} of score {wiring.score.type}; emits {wiring.emit}"
    yield "sinks", ", ".join(sink.type for sink in wiring.sinks) or "none"
    yield "capabilities", ", ".join(header.capabilities) or "none"
    yield "sandbox", f"{header.sandbox}, {header.isolation}"
    needed = f"{needs.minimum_memory_mb} MiB and {needs.minimum_cpu_cores:g} cores"
    yield "resources", f"at least {needed}, at most {limits.memory_mb} MiB and {limits.cpu_cores:g} cores"
    if header.memory.width:
        yield "memory", f"{header.memory.width} values, checkpoint every {header.memory.checkpoint_s:g} s"
    yield "supervision", f"{header.supervision.strategy}, network {header.supervision.network or header.name}"


def _quantization(made: Quantization) -> str:
    method = f"percentile {made.percentile:g}" if made.calibration == "percentile" else made.calibration
    cost = f"loss {made.loss:.4g} (bound {made.loss_max:g}), error mean {made.error_mean:.3g} max {made.error_max:.3g}"
    return f"int8, path {made.path}, {method} of {made.rows} rows: {cost}"


def _region(name: str, region: dict[str, Any]) -> str:
    if "size" in region:
        return f"{name} {region['size']} bytes at {region['offset']}"
    return f"{name} {region['width']} values at {region['offset']} (rows {region['stride']} bytes apart)"


def _sections(file: AgentFile) -> list[str]:
    rows = [
        (
            entry.name,
            entry.length,
            entry.raw_length,
            entry.encoding,
            f"{entry.dtype or '-'} {'x'.join(map(str, entry.shape))}".strip(),
            entry.sha256[:16],
        )
        for entry in file.header.sections
    ]
    if not rows:
        return ["no sections"]
    header = ("section", "stored bytes", "bytes", "encoding", "content", "sha256")
    return output.table(header, rows, right=(1, 2)).splitlines()


def _warnings(row: dict[str, Any]) -> list[str]:
    return ["", *(output.plain(f"warning: {text}") for text in row["warnings"])] if row["warnings"] else []


# --- verify ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.  exit_code: what the command ends with if this is the first that failed."""

    name: str
    ok: bool
    detail: str
    exit_code: int = 0


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@trust_option
@output.state_option
@output.config_option
@output.json_option
def verify(file: Path, trust: Path | None, state: Path | None, config_file: Path | None, as_json: bool) -> int:
    """Check an agent file as a device would: hashes, signature, kernel, golden vectors computed in a jail.

    Ends with 0 if all is well, else with the code of the first check that failed: 3 file or kernel, 5 signature,
    6 limit, 7 jail.

    \b
    Examples:
      edgeswarm agent verify demo.af
      edgeswarm agent verify demo.af --trust ./publishers
    """
    from edgeswarm import agentfile

    found = agentfile.read(common.read_agent_file(file), who=str(file))
    trusted = trusted_publishers(trust, state, config_file)
    checks = [Check("file", True, f"{len(found.header.sections)} sections, every length and hash as the header says")]
    checks += _checks(found, trusted, state, config_file)
    failed = next((check for check in checks if not check.ok), None)
    row = {"path": str(file), "ok": failed is None, "checks": [asdict(check) for check in checks]}

    def text() -> str:
        lines = [(check.name, "ok" if check.ok else "FAILED", check.detail) for check in checks]
        verdict = "all is well" if failed is None else f"{failed.name} failed"
        return f"{output.table(('check', 'result', 'detail'), lines)}\n\n{output.plain(str(file))}: {verdict}"

    output.emit(row, as_json=as_json, text=text)
    return 0 if failed is None else failed.exit_code


def _checks(
    file: AgentFile, trusted: dict[KeyId, bytes], state: Path | None, config_file: Path | None
) -> Iterator[Check]:
    from edgeswarm import agentfile
    from edgeswarm.app.shelf import check_kernel
    from edgeswarm.compile import check_module

    try:
        yield Check("signature", True, f"publisher {agentfile.verify(file, trusted)}")
    except EdgeSwarmError as error:
        yield _failed("signature", error)
    try:
        layout = check_kernel(file, who=file.header.name)
        check_module(file.section("wasm_kernel"), who=file.header.name)
    except EdgeSwarmError as error:
        yield _failed("kernel", error)
        return
    yield Check("kernel", True, f"ABI {layout.abi}, no imports, fits its header and limits")
    if "golden" not in file.sections:
        yield Check("golden", True, "the file has no golden vectors: nothing says what it should compute")
        return
    from edgeswarm.app.cli.jailed import golden_rows

    try:
        yield Check("golden", True, f"{golden_rows(file, state, config_file)} rows computed in a jail, all as expected")
    except EdgeSwarmError as error:
        yield _failed("golden", error)


def _failed(name: str, error: EdgeSwarmError) -> Check:
    return Check(name, False, str(error), error.exit_code)


# --- sign ------------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="X.af")
@signing.key_option
@click.option("-o", "--output", "out", type=click.Path(path_type=Path, dir_okay=False), help="Default: X.af itself.")
@output.state_option
@output.config_option
@output.json_option
def sign(
    file: Path, key: Path | None, out: Path | None, state: Path | None, config_file: Path | None, as_json: bool
) -> None:
    """Sign an agent file; a signature that it has is replaced, not a byte of the rest changes.

    \b
    Example:
      edgeswarm agent sign demo.af --key site.key -o demo-site.af
    """
    from edgeswarm import agentfile

    data = common.read_agent_file(file)
    agentfile.read(data, who=str(file), wanted=())
    pair = signing.publisher(key, state, config_file)
    signed = agentfile.sign(data, publisher_key=pair.seed, who=str(file))
    path = out or file
    common.write_file(path, signed)
    row = {"path": str(path), "publisher": pair.id, "size_bytes": len(signed)}
    output.emit(row, as_json=as_json, text=lambda: f"{path}: signed by {pair.id}")
