"""Reading: what is whole is taken, what is not is refused with line or offset, in bounded memory."""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from edgeswarm import agentfile
from edgeswarm.agentfile import header as hd
from edgeswarm.agentfile import reader, sections
from edgeswarm.agentfile.file import MAGIC, marker
from edgeswarm.errors import AgentFileError, LimitError, SignatureError
from edgeswarm.limits import AF_FILE_BYTES_MAX, AF_HEADER_BYTES_MAX, AF_TEXT_SECTIONS_BYTES_MAX

LEAST = b'version: "1.0"\nname: a\nneural_config: {input_size: 2, output_size: 1}\n'


class Pipe(io.RawIOBase):
    """A file without a size that gives `step` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step, self._at = data, step, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        size = min(self._step, size if size >= 0 else self._step)
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece


def entry(name: str, stored: bytes, **keys: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(stored).hexdigest()
    return {"name": name, "length": len(stored), "sha256": sha256, "raw_length": len(stored), **keys}


def hand_made(*parts: tuple[dict[str, Any], bytes], tail: bytes = b"") -> bytes:
    """A file by hand: entries of the table, and what stands in the file."""
    table = "".join("  - {" + ", ".join(f"{k}: {v}" for k, v in row.items()) + "}\n" for row, _ in parts)
    body = b"".join(marker(row["name"]) + stored for row, stored in parts)
    return MAGIC + LEAST + (b"sections:\n" + table.encode() if parts else b"") + body + tail


def refused(data: bytes, error: type[Exception] = AgentFileError) -> Any:
    with pytest.raises(error) as caught:
        agentfile.read(data, who="f.af")
    assert str(caught.value).startswith("f.af: ")
    return caught.value


def test_the_specifications_sample_loads_with_warnings(sample: bytes) -> None:
    af = agentfile.read(sample, who="sample.af")
    assert af.header.name == "classification-agent"
    assert af.header.neural_config.hidden_layers == (128, 64, 32)
    assert af.header.resources.limits.memory_mb == 512
    assert af.header.workflows.shutdown == ("save_state", "disconnect_from_swarm", "cleanup_resources")
    assert af.header.runtime == hd.RuntimeInfo(
        "1.70.0", {"tokio": "1.0", "fann": "0.3", "serde": "1.0"}, ("neural", "async")
    )
    assert af.unlisted["neural_weights"] == b"[compressed binary data]"
    assert (dict(af.sections), af.signature) == ({}, None)
    assert [warning.split(":")[0] for warning in af.warnings] == [
        "line 1", "line 9", "no table `sections`", "section neural_weights", "section training_data",
    ]  # fmt: skip


def test_a_full_file_reads_back_as_it_was_built(
    full_file: bytes, full_header: hd.Header, full_sections: dict[str, bytes]
) -> None:
    af = agentfile.read(full_file, who="full.af")
    assert dict(af.sections) == full_sections
    assert replace(af.header, sections=(), created="", modified="") == full_header
    assert [row.name for row in af.header.sections] == ["neural_weights", "wasm_kernel", "golden", "training_data"]
    assert [row.encoding for row in af.header.sections] == ["zstd"] * 4
    assert af.header.sections[2].shape == (3, 13)
    assert af.sha256 == hashlib.sha256(full_file).hexdigest()
    assert af.size_bytes == len(full_file)
    assert len(af.warnings) == 1  # runtime is informational


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_pipe_gives_the_same_as_bytes(full_file: bytes, step: int) -> None:
    pipe: Any = Pipe(full_file, step)
    assert agentfile.read(pipe, who="f") == agentfile.read(full_file, who="f")


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_file_on_disk_gives_the_same_as_bytes(full_file: bytes, tmp_path: Path, buffering: int) -> None:
    path = tmp_path / "full.af"
    path.write_bytes(full_file)
    with open(path, "rb", buffering=buffering) as file:
        disk: Any = file
        assert agentfile.read(disk, who="f") == agentfile.read(full_file, who="f")


def test_a_file_is_read_from_where_it_stands(full_file: bytes) -> None:
    file = io.BytesIO(b"before" + full_file)
    file.seek(6)
    assert agentfile.read(file) == agentfile.read(full_file)


def test_sections_that_are_not_wanted_are_checked_and_let_go(full_file: bytes) -> None:
    af = agentfile.read(full_file, wanted=("wasm_kernel",))
    assert list(af.sections) == ["wasm_kernel"]
    assert af.sha256 == hashlib.sha256(full_file).hexdigest()
    broken = full_file.replace(marker("training_data") + b"(", marker("training_data") + b")")
    with pytest.raises(AgentFileError, match="section training_data: expected SHA-256"):
        agentfile.read(broken, wanted=("wasm_kernel",))


def test_a_section_that_is_not_there_is_named() -> None:
    with pytest.raises(
        AgentFileError, match="a.af: section wasm_kernel: expected one, found no section; `edgeswarm agent"
    ):
        agentfile.read(hand_made(), who="a.af").section("wasm_kernel")


def test_the_first_line_may_be_absent() -> None:
    af = agentfile.read(LEAST)
    assert af.header.name == "a"
    assert af.warnings[0] == "line 1: expected '%EdgeSwarm-AF 1', found none; read as format 1"


def test_a_header_alone_is_a_file_without_kernel() -> None:
    af = agentfile.read(MAGIC + LEAST)
    assert af.warnings == ("no table `sections`: the file describes an agent, and carries no kernel to run",)


@pytest.mark.parametrize(
    ("data", "line", "text"),
    [
        (b"", 1, "YAML: expected a table of keys, found nothing"),
        (b"%EdgeSwarm-AF 2\n" + LEAST, 1, "expected '%EdgeSwarm-AF 1', found format 2"),
        (b"%EdgeSwarm-AF 1\r\n" + LEAST, 1, "expected '%EdgeSwarm-AF 1', found a carriage return"),
        (b"%PDF-1.7\n" + LEAST, 1, "expected '%EdgeSwarm-AF 1', found b'%PDF-1.7'"),
        (b"\0asm\1\0\0\0", 1, "YAML: "),
        (b"\x7fELF\x02\x01\x01", 1, "YAML: "),
        (MAGIC + b"a: 1\nb: \xff\n", 3, "the header is not UTF-8"),
        (MAGIC + b"\xef\xbb\xbf" + LEAST, 2, "byte order mark"),
        (MAGIC + LEAST + b"extra: 1\n", 5, "extra: unknown key"),
        (
            MAGIC + LEAST.replace(b"input_size: 2", b"input_size: two"),
            4,
            "neural_config.input_size: expected a whole number",
        ),
        (MAGIC + b"[]\n", 2, "expected a table of keys, found a list of 0"),
        (MAGIC + b"just text\n", 2, "expected a table of keys, found 'just text'"),
    ],
)
def test_a_wrong_header_has_its_line(data: bytes, line: int, text: str) -> None:
    error = refused(data)
    assert error.line == line
    assert text in str(error)


KERNEL = b"\0asm\1\0\0\0rest"


WHOLE = hand_made((entry("wasm_kernel", KERNEL), KERNEL))
SHORT = entry("wasm_kernel", KERNEL, length=4, raw_length=4)
END = "expected the end or the section signature"


@pytest.mark.parametrize(
    ("data", "at", "text"),
    [
        (WHOLE[:-1], "body", "the section table asks for 46 bytes, the file has 45"),
        (WHOLE[:-1] + b"x", "data", "section wasm_kernel: expected SHA-256"),
        (hand_made((SHORT, KERNEL)), "data", "expected SHA-256"),
        (WHOLE + b"x", "end", f"{END}, found b'x'"),
        (WHOLE + marker("golden") + b"1234", "end", f"{END}, found b'\\n---BINARY_SECTION:golden"),
        (
            WHOLE.replace(b":wasm_kernel-", b":wasm-kernel-"),
            "body",
            "expected the marker of section wasm_kernel, found b'\\n---BINARY_SECTION:wasm-kernel---\\n'",
        ),
        (
            hand_made((entry("wasm_kernel", b"MZ-a-program"), b"MZ-a-program")),
            "data",
            "section wasm_kernel: expected a wasm module, found 4d5a2d612d70726f",
        ),
        (
            hand_made((entry("training_data", b"text", encoding="zstd"), b"text")),
            "data",
            "section training_data: zstd: error when determining content size",
        ),
    ],
)
def test_a_wrong_section_has_its_offset(data: bytes, at: str, text: str) -> None:
    error = refused(data)
    body = data.index(b"\n---BINARY")
    start = data.index(b"---\n", body) + 4
    end = start + len(KERNEL)
    assert error.offset == {"body": body, "data": start, "end": end}[at]
    assert text in str(error)


@pytest.mark.parametrize("cut", range(0, 2_000, 97))
def test_a_truncated_file_is_refused(full_file: bytes, cut: int, publisher: Any) -> None:
    with pytest.raises(AgentFileError):
        agentfile.verify(agentfile.read(full_file[:cut]), publisher.trusted)
    with pytest.raises(AgentFileError):
        pipe: Any = Pipe(full_file[:cut], 64)
        agentfile.verify(agentfile.read(pipe), publisher.trusted)


def test_a_truncated_pipe_says_how_much_was_there() -> None:
    pipe: Any = Pipe(hand_made((entry("wasm_kernel", KERNEL), KERNEL))[:-5], 1)
    with pytest.raises(
        AgentFileError, match=r"offset \d+: section wasm_kernel: expected 12 bytes, the file ends after 7"
    ):
        agentfile.read(pipe)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 1, 65_535, 65_536, 70_001])
def test_weights_that_are_not_finite_are_refused_with_their_index(value: float, index: int) -> None:
    values = [0.5] * 70_002
    values[index] = value
    raw = struct.pack("<70002f", *values)
    data = hand_made((entry("neural_weights", raw, dtype="f32", shape="[70002]"), raw))
    error = refused(data)
    assert f"section neural_weights: expected finite numbers, found {value} at index {index}" in str(error)
    assert error.offset == data.index(b"---\n", data.index(b"BINARY")) + 4


def test_large_finite_weights_are_taken() -> None:
    raw = struct.pack("<4f", 3.4028234663852886e38, -3.4028234663852886e38, 3.4028234663852886e38, 1e-45)
    assert sections.first_not_finite(raw * 20_000) is None


def test_markers_inside_a_listed_section_are_its_bytes() -> None:
    raw = b"x" + marker("golden") + marker("signature")
    assert agentfile.read(hand_made((entry("training_data", raw), raw))).section("training_data") == raw


# --- textual sections -----------------------------------------------------------------------------------------------


def test_sections_without_a_table_run_to_the_next_marker() -> None:
    af = agentfile.read(MAGIC + LEAST + marker("golden") + b"a\nb\n" + marker("neural_weights"))
    assert dict(af.unlisted) == {"golden": b"a\nb\n", "neural_weights": b""}
    assert dict(af.sections) == {}


@pytest.mark.parametrize(
    ("tail", "text"),
    [
        (marker("weights") + b"x", "section weights: unknown; expected one of neural_weights"),
        (marker("golden") + b"x" + marker("golden"), "section golden: there twice"),
        (b"\n---BINARY_SECTION:Golden---\nx", "expected a section's marker, found b'\\n---BINARY_SECTION:Golden"),
        (marker("golden") + b"x" + marker("signature") + b"y", "so the signature does not cover it"),
        (marker("signature") + b"y", "section signature: expected a COSE_Sign1"),
    ],
)
def test_wrong_textual_sections_are_refused(tail: bytes, text: str) -> None:
    error = refused(MAGIC + LEAST + tail)
    assert text in str(error)
    assert error.offset is not None


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_a_header_past_its_bound_is_refused() -> None:
    error = refused(MAGIC + LEAST + b"#" * AF_HEADER_BYTES_MAX, LimitError)
    assert f"header: at most {AF_HEADER_BYTES_MAX} bytes" in str(error)


def test_text_sections_past_their_bound_are_refused() -> None:
    data = MAGIC + LEAST + marker("golden") + b"x" * AF_TEXT_SECTIONS_BYTES_MAX
    assert "sections without a table: at most 1048576 bytes" in str(refused(data, LimitError))


def test_a_file_past_its_bound_is_refused_unread() -> None:
    class Huge(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            return AF_FILE_BYTES_MAX + 1 if whence == io.SEEK_END else super().seek(offset, whence)

    with pytest.raises(LimitError, match="offset 0: an agent file has at most 285212672 bytes, found 285212673"):
        agentfile.read(Huge(MAGIC + LEAST), who="f.af")


def test_a_signature_past_its_bound_is_refused() -> None:
    data = hand_made((entry("wasm_kernel", KERNEL), KERNEL), tail=marker("signature") + b"x" * 1025)
    assert "section signature: at most 1024 bytes" in str(refused(data, LimitError))


@pytest.mark.parametrize("length", [1 << 20, 200 << 20])
def test_a_declared_length_allocates_nothing(length: int) -> None:
    row = {**entry("training_data", b""), "length": length, "raw_length": length}
    data = hand_made((row, b"short"))
    tracemalloc.start()
    try:
        assert f"the section table asks for {length + 36} bytes" in str(refused(data))
        pipe: Any = Pipe(data, 4096)
        with pytest.raises(AgentFileError, match="the file ends after 5"):
            agentfile.read(pipe)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_bombs_are_refused_before_they_expand() -> None:
    raw = bytes(64 << 20)
    bomb = zstandard.ZstdCompressor(level=19).compress(raw)
    del raw
    assert len(bomb) < 10_000
    row = {**entry("training_data", bomb), "encoding": "zstd", "raw_length": 64 << 20}
    lying = {**entry("training_data", bomb), "encoding": "zstd", "raw_length": 1000}
    tracemalloc.start()
    try:
        text = str(refused(hand_made((row, bomb)), LimitError))
        assert (
            f"section training_data: at most 200 times the stored {len(bomb)} bytes, found raw_length 67108864" in text
        )
        text = str(refused(hand_made((lying, bomb))))
        assert "zstd: expected a frame that states 1000 bytes, found 67108864" in text
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_zstd_frames_must_state_their_size_and_end_with_the_section() -> None:
    machine = zstandard.ZstdCompressor().compressobj()
    unsized = machine.compress(b"abc" * 9) + machine.flush()
    whole = zstandard.ZstdCompressor(write_checksum=False).compress(b"abc" * 9)
    for stored, text in (
        (unsized, "expected a frame that states 27 bytes, found none"),
        (whole + b"x", "1 bytes of unused data"),
        (whole + whole, "bytes of unused data"),
        (whole[:-1], "did not decompress full frame"),
        (b"", "error when determining content size"),
    ):
        row = {**entry("training_data", stored), "encoding": "zstd", "raw_length": 27}
        if not stored:
            assert "at most 200 times the stored 0 bytes" in str(refused(hand_made((row, stored)), LimitError))
            continue
        error = refused(hand_made((row, stored)))
        assert text in str(error)
        assert error.offset is not None


def test_a_kernel_past_its_bound_is_refused() -> None:
    row = {**entry("wasm_kernel", b""), "length": 17 << 20, "raw_length": 17 << 20}
    assert "section wasm_kernel: at most 16777216 bytes" in str(refused(hand_made((row, b"")), LimitError))


def test_sections_that_are_too_much_together_are_refused() -> None:
    rows = [
        ({**entry(name, b""), "length": 150 << 20, "raw_length": 150 << 20}, b"")
        for name in ("training_data", "golden")
    ]
    rows[1][0].update(dtype="f32", shape=f"[{(150 << 20) // 12}, 3]", length=(150 << 20) // 12 * 12)
    rows[1][0]["raw_length"] = rows[1][0]["length"]
    assert "bytes decoded" in str(refused(hand_made(*rows), LimitError))


def test_one_large_section_costs_about_its_size() -> None:
    raw = bytes(range(256)) * 65_536  # 16 MiB
    data = io.BytesIO(agentfile.build(agentfile.read(LEAST).header, {"training_data": raw}, compress=False))
    tracemalloc.start()
    try:
        agentfile.read(data)
        kept = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        data.seek(0)
        agentfile.read(data, wanted=())
        let_go = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept < (16 << 20) * 1.2
    assert let_go < 4 << 20


def test_a_file_that_shrinks_while_it_is_read_is_refused() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            piece = super().read(size)
            return piece if self.tell() < 200 else b""

    data = hand_made((entry("training_data", b"x" * 100), b"x" * 100))
    small = Shrinking(data)
    with pytest.raises(AgentFileError):
        agentfile.read(small)


def test_a_malformed_signature_is_a_signature_error() -> None:
    data = hand_made((entry("wasm_kernel", KERNEL), KERNEL), tail=marker("signature") + b"\xd2\x84")
    assert "sign the file again" in str(refused(data, SignatureError))


def test_the_reader_knows_every_marker() -> None:
    assert re.fullmatch(reader._MARKER.pattern, marker("neural_weights"))
