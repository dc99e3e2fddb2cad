"""Laws of the format over generated files: round trip, byte identity, and no mutant is taken for what it is not."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm import agentfile
from edgeswarm.agentfile import header as hd
from edgeswarm.agentfile import wiring as wr
from edgeswarm.errors import AgentFileError, LimitError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
names = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)
numbers = st.floats(-1e6, 1e6)
whens = st.sampled_from(["always", "decision_changed"])
queues = st.builds(wr.Queue, st.sampled_from(["block", "drop_oldest", "latest_only"]), st.integers(1, 65_536))


def field_names(width: int) -> st.SearchStrategy[tuple[str, ...]]:
    label = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
    return st.lists(label, min_size=width, max_size=width).map(tuple)


def sources(width: int) -> st.SearchStrategy[wr.Source]:
    fields = field_names(width)
    rates = st.floats(0.001, 10_000.0)
    formats = st.sampled_from(["csv", "jsonl"])
    commands = st.lists(texts, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(wr.VitalsSource, st.just("vitals"), fields, rate_hz=rates, queue=queues),
        st.builds(wr.CsvSource, st.just("csv"), texts.filter(bool), fields, speed=st.floats(0.0, 100.0), queue=queues),
        st.builds(wr.JsonlSource, st.just("jsonl"), fields, queue=queues),
        st.builds(wr.TailSource, st.just("tail"), texts.filter(bool), fields, format=formats),
        st.builds(wr.IioSource, st.just("iio"), texts.filter(bool), fields, rate_hz=rates),
        st.builds(wr.ExecSource, st.just("exec"), commands, fields, format=formats),
        st.builds(wr.ApiSource, st.just("api"), st.just(width)),
    )


@st.composite
def wirings(draw: st.DrawFn) -> tuple[wr.Wiring, int]:
    """A wiring, and the width of its frames."""
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    found = tuple(replace(draw(sources(width)), id=f"s{n}") for n, width in enumerate(widths))
    row, rows = sum(widths), draw(st.integers(1, 4))
    vector = st.lists(numbers, min_size=row, max_size=row).map(tuple)
    positive = st.lists(st.floats(1e-6, 1e6), min_size=row, max_size=row).map(tuple)
    normalize = draw(
        st.one_of(
            st.builds(wr.NormalizeSpec, clip=st.floats(0.0, 100.0)),
            st.builds(wr.NormalizeSpec, st.just("fixed"), mean=vector, std=positive),
            st.builds(wr.NormalizeSpec, st.sampled_from(["zscore", "minmax"]), warmup_rows=st.integers(1, 1000)),
        )
    )
    decision = draw(
        st.one_of(
            st.builds(wr.DecisionSpec, st.just("argmax"), hold=st.integers(1, 9)),
            st.builds(wr.DecisionSpec, st.just("threshold"), labels=field_names(2), above=numbers),
            st.builds(wr.DecisionSpec, st.just("hysteresis"), high=st.floats(1.0, 9.0), low=st.floats(-9.0, 0.5)),
            st.builds(wr.DecisionSpec, st.just("change"), delta=st.floats(1e-9, 9.0)),
            st.just(wr.DecisionSpec()),
        )
    )
    sinks: list[wr.Sink] = []
    if draw(st.booleans()):
        sinks.append(draw(st.builds(wr.JsonlSink, st.just("jsonl"), texts.filter(bool), when=whens)))
    if draw(st.booleans()):
        sinks.append(draw(st.builds(wr.SocketSink, st.just("socket"), names, when=whens)))
    wiring = wr.Wiring(
        sources=found,
        join=draw(st.sampled_from(["latest", "zip"])),
        window=wr.WindowSpec(rows, draw(st.integers(1, 9))),
        normalize=normalize,
        decision=decision,
        sinks=tuple(sinks),
    )
    return wiring, row * rows


@st.composite
def files(draw: st.DrawFn) -> tuple[hd.Header, dict[str, bytes], bytes | None, bool]:
    """Arguments of build: header, sections, publisher's key, compress."""
    wiring, frame = draw(wirings())
    memory, payload = draw(st.integers(0, 3)), draw(st.integers(1, 6))
    size = (frame + memory, payload + memory)
    header = hd.Header(
        version="1.0",
        name=draw(names),
        neural_config=hd.NeuralConfig(*size, hidden_layers=tuple(draw(st.lists(st.integers(1, 99), max_size=3)))),
        description=draw(texts),
        author=draw(texts),
        created=agentfile.moment(draw(st.integers(0, 4_000_000_000))),
        runtime=draw(st.none() | st.builds(hd.RuntimeInfo, texts, st.dictionaries(texts, texts, max_size=3))),
        wiring=wiring,
        capabilities=("exec_source", "exec_sink", "file_source", "file_sink"),
        memory=hd.MemorySpec(memory, draw(st.floats(0.1, 1000.0))),
        isolation=draw(st.sampled_from(["shared", "own-jail"])),
        kernel=hd.KernelOptions(mode=draw(st.sampled_from(["fast", "deterministic"]))),
    )
    sections: dict[str, bytes] = {}
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    if draw(st.booleans()):
        values = draw(st.lists(finite, max_size=30))
        sections["neural_weights"] = struct.pack(f"<{len(values)}f", *values)
    if draw(st.booleans()):
        rows = draw(st.integers(0, 3))
        sections["golden"] = struct.pack(f"<{rows * sum(size)}f", *([draw(finite)] * (rows * sum(size))))
    if draw(st.booleans()):
        sections["wasm_kernel"] = b"\0asm\1\0\0\0" + draw(st.binary(max_size=100))
    if draw(st.booleans()):
        sections["training_data"] = draw(st.binary(max_size=200)) * draw(st.integers(1, 20))
    key = draw(st.none() | st.binary(min_size=32, max_size=32))
    return header, sections, key, draw(st.booleans())


@given(files())
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_read_undoes_build_and_write_undoes_read(parts: tuple[hd.Header, dict[str, bytes], bytes | None, bool]) -> None:
    header, sections, key, compress = parts
    data = agentfile.build(header, sections, publisher_key=key, compress=compress)
    af = agentfile.read(data, who="generated")
    assert replace(af.header, sections=()) == header
    assert repr(replace(af.header, sections=())) == repr(header)  # also where 0.0 == -0.0
    assert dict(af.sections) == sections
    assert (af.signature is None) == (key is None)
    assert agentfile.write(af) == data
    assert agentfile.build(header, sections, publisher_key=key, compress=compress) == data


# --- mutants --------------------------------------------------------------------------------------------------------

MUTANTS = [500, pytest.param(10_000, marks=pytest.mark.soak)]


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 40)]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(
        (b"\0", b"\n", b"---", b"9" * 12, b"- {", b": ", b"\xff", rng.randbytes(rng.randrange(1, 30)))
    )


def repeat(data: bytearray, rng: random.Random) -> None:
    at, size, to = rng.randrange(len(data)), rng.randrange(1, 200), rng.randrange(len(data))
    data[to:to] = data[at : at + size]


def swap(data: bytearray, rng: random.Random) -> None:
    size = rng.randrange(1, 60)
    left, right = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    data[left : left + size], data[right : right + size] = data[right : right + size], data[left : left + size]


def renumber(data: bytearray, rng: random.Random) -> None:
    """Another number where a number stands: lengths, shapes, sizes."""
    digits = [n for n, byte in enumerate(data[:2500]) if chr(byte).isdigit()]
    if digits:
        data[rng.choice(digits)] = rng.choice(b"0123456789")


def swap_lines(data: bytearray, rng: random.Random) -> None:
    lines = bytes(data).split(b"\n")
    left, right = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[left], lines[right] = lines[right], lines[left]
    data[:] = b"\n".join(lines)


MUTATORS: list[Callable[[bytearray, random.Random], None]] = [
    flip, cut, remove, insert, repeat, swap, renumber, swap_lines,
]  # fmt: skip


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for number in range(count):
        mutant = bytearray(data)
        MUTATORS[number % len(MUTATORS)](mutant, rng)
        yield bytes(mutant)


@pytest.mark.parametrize("count", MUTANTS)
def test_no_mutant_of_a_signed_file_is_taken_for_another(full_file: bytes, publisher: Any, count: int) -> None:
    """Refused, or equal in everything that is used; nothing else is raised, and little memory is taken."""
    original = agentfile.read(full_file)
    refused = 0
    tracemalloc.start()
    try:
        for number, mutant in enumerate(mutants(full_file, count, seed=1)):
            tracemalloc.reset_peak()
            try:
                af = agentfile.read(mutant)
                agentfile.verify(af, publisher.trusted)
            except (AgentFileError, LimitError):
                refused += 1
            else:
                assert (af.header, dict(af.sections)) == (original.header, dict(original.sections)), f"mutant {number}"
            assert tracemalloc.get_traced_memory()[1] < 8 << 20, f"mutant {number}"
    finally:
        tracemalloc.stop()
    assert refused > count * 0.95


@pytest.mark.parametrize("count", MUTANTS)
def test_a_mutant_of_an_unsigned_file_is_refused_or_a_file(
    full_header: hd.Header, small_file: bytes, count: int
) -> None:
    """Without a signature another header may be valid: then it must write and read back as itself."""
    plain = agentfile.build(full_header, {"training_data": b"0123456789" * 30}, compress=False)
    for base in (plain, small_file):
        for number, mutant in enumerate(mutants(base, count // 2, seed=2)):
            try:
                af = agentfile.read(mutant)
            except (AgentFileError, LimitError):
                continue
            again = agentfile.read(agentfile.write(replace(af, signature=None)))
            assert (again.header, again.sections) == (af.header, af.sections), f"mutant {number}"


@pytest.mark.parametrize("count", MUTANTS)
def test_a_mutant_of_the_specifications_sample_is_refused_or_a_file(sample: bytes, count: int) -> None:
    for mutant in mutants(sample, count, seed=3):
        try:
            af = agentfile.read(mutant)
        except (AgentFileError, LimitError):
            continue
        assert agentfile.parse_header(agentfile.emit_header(af.header)) == af.header
