"""Agent files that are damaged, forged, too large or nobody's, deployed and swapped beside an agent that goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from supervised import Bench, header_tree

from edgeswarm import agentfile
from edgeswarm.agentfile.file import Section
from edgeswarm.app import builder
from edgeswarm.drivers import keys
from edgeswarm.errors import AgentFileError, EdgeSwarmError, LimitError, SignatureError
from edgeswarm.ids import AgentName
from edgeswarm.schema import decode

Spoil = Callable[[Bench, bytes], bytes]


def forged(bench: Bench, data: bytes) -> bytes:
    """Another agent's header under this signature."""
    return data.replace(b"name: b\n", b"name: c\n", 1)


def unsigned(bench: Bench, data: bytes) -> bytes:
    file = agentfile.read(data)
    return data[: file.body_bytes]


def by_a_stranger(bench: Bench, data: bytes) -> bytes:
    stranger, _ = keys.load_or_make(bench.state / "stranger.key")
    return bench.mlp("b", key=stranger)


def flipped(bench: Bench, data: bytes) -> bytes:
    """One bit of the weights."""
    at = data.index(b"---BINARY_SECTION:neural_weights---\n") + 50
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def sample(bench: Bench, data: bytes) -> bytes:
    """A file of the specification, without a kernel."""
    header = decode(header_tree("b", 4, 2), agentfile.Header)
    return agentfile.build(header, {}, publisher_key=bench.publisher.seed)


BAD: list[tuple[str, Spoil, type[EdgeSwarmError], str]] = [
    ("empty", lambda _, data: b"", AgentFileError, r"line 1: "),
    ("no agent file", lambda _, data: b"\x7fELF" + data, AgentFileError, r"line 1: "),
    ("truncated header", lambda _, data: data[:200], AgentFileError, r"(line|offset) \d+: "),
    ("truncated section", lambda _, data: data[:-400], AgentFileError, r"offset \d+: "),
    ("something behind it", lambda _, data: data + b"x", EdgeSwarmError, r"signature|offset"),
    ("a bit of the weights", flipped, AgentFileError, r"section neural_weights: expected SHA-256 [0-9a-f]{64}, found"),
    ("forged", forged, SignatureError, r"signature"),
    ("unsigned", unsigned, SignatureError, r"sign"),
    ("by a stranger", by_a_stranger, SignatureError, r"trust\.d"),
    ("without a kernel", sample, EdgeSwarmError, r"section wasm_kernel: expected a kernel, found none"),
    ("misspelt key", lambda _, data: data.replace(b"description:", b"descripton:", 1), AgentFileError, r"line \d+: "),
]


@pytest.mark.parametrize(("spoil", "error", "text"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_bad_file_is_refused_with_its_name_and_the_others_go_on(
    bench: Bench, spoil: Spoil, error: type[EdgeSwarmError], text: str
) -> None:
    """As a deploy and as a swap; nothing of it is kept."""
    good = bench.mlp("b", description="to be spoilt")
    await bench.supervisor.deploy([("a.af", bench.mlp())])
    bad = spoil(bench, good)
    assert bad != good
    with pytest.raises(error) as caught:
        await bench.supervisor.deploy([("spoilt.af", bad), ("c.af", bench.mlp("c"))])
    assert str(caught.value).startswith("spoilt.af: ") and re.search(text, str(caught.value)), str(caught.value)
    with pytest.raises(error):
        await bench.supervisor.swap("a", "spoilt.af", bad)
    assert list(bench.supervisor.node.table.agents) == ["a"]
    assert len(list((bench.state / "agents").iterdir())) == 1
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_file_past_its_bound_is_refused_unread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeswarm.app.shelf.AF_FILE_BYTES_MAX", 1000)
    with pytest.raises(LimitError, match=r"big\.af: an agent file has at most 1000 bytes, found \d+"):
        await bench.supervisor.deploy([("big.af", bench.mlp())])


async def test_publisher_that_is_no_longer_trusted_is_not_resumed(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    await bench.supervisor.close()
    [trusted] = (bench.state / "trust.d").glob("*.pub")
    trusted.unlink()
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    assert not bench.supervisor.node.table.agents
    [line] = bench.events("agent_not_resumed")
    assert '"agent":"a"' in line and "trust.d" in line


async def test_kept_file_that_vanished_or_changed_is_told_and_the_others_are_resumed(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp(name)) for name in "abc"])
    await bench.supervisor.close()
    files = {name: next(Path(bench.state / "agents").glob(f"{name}.*.af")) for name in "ab"}
    files["a"].unlink()
    other = builder.model_of(None, sizes=(4, 9, 2), activation="relu", output_activation="linear")
    files["b"].write_bytes(builder.build(header_tree("b", 4, 2, hidden=(9,)), other, key=bench.publisher))
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    assert list(bench.supervisor.node.table.agents) == ["c"]
    told = "".join(bench.events("agent_not_resumed"))
    assert "No such file" in told and "expected SHA-256" in told
    assert await bench.supervisor.ask("c", [0.0] * 4, 5.0) is not None


async def test_warnings_of_a_file_are_logged_and_do_not_refuse_it(bench: Bench) -> None:
    runtime = {"rust_version": "1.70", "dependencies": {"ndarray": "0.15"}, "features": []}
    await bench.supervisor.deploy([("t", bench.mlp(runtime=runtime))])
    [line] = bench.events("agent_file_warning")
    assert "runtime: informational only" in line
    file = bench.supervisor.shelf.current(AgentName("a")).file
    assert replace(file, warnings=()).header.runtime is not None


async def test_section_that_the_header_does_not_fit_is_refused(bench: Bench) -> None:
    kernel = agentfile.read(bench.mlp()).sections["wasm_kernel"]
    header = decode(header_tree("a", 4, 2), agentfile.Header)
    sections = {"wasm_kernel": Section(kernel), "neural_weights": Section(bytes(8), "f32", (2,))}
    data = agentfile.build(header, sections, publisher_key=bench.publisher.seed)
    with pytest.raises(EdgeSwarmError, match=r"x\.af: neural_weights: the kernel expects \d+ bytes, found 8"):
        await bench.supervisor.deploy([("x.af", data)])
