"""docs/agent-file.md is right: its key tables, its hexdump and its errors are those of the code.

`make golden` rewrites them (GOLDEN=rewrite); the diff is read before it is committed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import struct
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeswarm import agentfile, limits
from edgeswarm.agentfile import header as hd
from edgeswarm.agentfile import writer
from edgeswarm.agentfile.file import EXTERNAL_AAD, MAGIC, marker
from edgeswarm.errors import EdgeSwarmError
from edgeswarm.schema import kinds

DOC = Path(__file__).resolve().parents[2] / "docs" / "agent-file.md"
RFC_8032_TEST_1 = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")


def check_part(name: str, expected: str) -> None:
    """The part of the document between the two marks of `name` is `expected`; GOLDEN=rewrite makes it so."""
    text = DOC.read_text()
    found = re.search(rf"(<!-- {name}: begin [^\n]*-->\n)(.*?)(<!-- {name}: end -->)", text, re.DOTALL)
    assert found is not None, f"{DOC}: no part {name}"
    if os.environ.get("GOLDEN") == "rewrite" and found[2] != expected:
        DOC.write_text(text[: found.start(2)] + expected + text[found.end(2) :])
        return
    assert found[2] == expected, f"{DOC}: part {name} is not what the code does; run `make golden` and read the diff"


# --- the keys -------------------------------------------------------------------------------------------------------


def tables(kind: type, path: str) -> Iterator[str]:
    """A Markdown table of the keys of `kind`, then those of the tables below it."""
    below: list[tuple[type, str]] = []
    rows = []
    for key, (field, hint) in kinds.keys_of(kind).items():
        bare, notes = kinds.peel(hint)
        meaning = next((note.text for note in notes if isinstance(note, kinds.Doc)), "")
        default = kinds.default(field)
        shown = "required" if default is dataclasses.MISSING else kinds.default_text(default)
        tagged = key == "type" and path.endswith(")")
        if not tagged:
            rows.append(f"| `{key}` | {kinds.type_text(hint)} | {shown} | {meaning.replace('|', '&#124;')} |")
        below += tables_below(bare, f"{path}.{key}" if path else key)
    name, _, rest = path.partition(" (")
    yield f"### `{name}`" + (f" ({rest}" if rest else "") + "\n\n" if path else "### Top level\n\n"
    yield f"{(kind.__doc__ or '').strip()}\n\n"
    if rows:
        yield "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows]) + "\n\n"
    for inner, inner_path in below:
        if not (inner_path.endswith(").queue") and "vitals" not in inner_path):  # the same for every source
            yield from tables(inner, inner_path.replace("[] (type vitals).queue", "[].queue"))


def tables_below(bare: Any, path: str) -> list[tuple[type, str]]:
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if isinstance(bare, type) and dataclasses.is_dataclass(bare):
        return [(bare, path)]
    if origin is tuple:
        return tables_below(kinds.peel(arguments[0])[0], f"{path}[]")
    if origin in (typing.Union, types.UnionType):
        options = tuple(option for option in arguments if option is not types.NoneType)
        by_type = kinds.tagged(options)
        if by_type:
            return [(kind, f"{path} (type {tag})") for tag, kind in by_type.items()]
        return [found for option in options for found in tables_below(kinds.peel(option)[0], path)]
    return []


def test_golden_key_tables_are_those_of_the_dataclasses() -> None:
    text = "".join(tables(hd.Header, ""))
    assert text.count("### ") == 35
    check_part("keys", "\n" + text)


def test_every_key_has_a_meaning() -> None:
    from edgeswarm import schema

    silent = [row.path for row in schema.describe(hd.Header) if not row.text and not row.path.endswith(").type")]
    assert silent == []


# --- the hexdump ----------------------------------------------------------------------------------------------------


def smallest() -> bytes:
    header = hd.Header(version="1.0", name="smallest", neural_config=hd.NeuralConfig(2, 1))
    weights = {"neural_weights": struct.pack("<3f", 0.5, -1.0, 2.0)}
    return agentfile.build(header, weights, publisher_key=RFC_8032_TEST_1, created="2026-01-02T03:04:05Z")


def hexdump(data: bytes, offset: int) -> str:
    lines = []
    for at in range(0, len(data), 16):
        piece = data[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{offset + at:08x}  {piece.hex(' '):<47}  {shown}\n")
    return "".join(lines)


def test_golden_hexdump_of_the_smallest_file() -> None:
    data = smallest()
    af = agentfile.read(data)
    first, second = marker("neural_weights"), marker("signature")
    message = data[af.body_bytes + len(second) :]
    parts = [
        ("first line", MAGIC),
        ("the YAML, which is also the signature's payload", af.header_bytes),
        ("marker", first),
        ("three weights: 0.5, -1, 2", af.section("neural_weights")),
        ("marker", second),
        ("COSE_Sign1: tag 18, array of 4", message[:2]),
        ("protected header, 21 bytes: {1: -8, 4: key id of 16 characters}", message[2:24]),
        ("unprotected header: {}; payload: null", message[24:26]),
        ("signature, 64 bytes", message[26:]),
    ]
    assert b"".join(part for _, part in parts) == data
    text, offset = "", 0
    for what, part in parts:
        text += f"; {what}\n{hexdump(part, offset)}"
        offset += len(part)
    text += f"; {offset} bytes in all; SHA-256 {af.sha256}\n"
    check_part("hexdump", f"\n```text\n{text}```\n\n")


# --- the errors -----------------------------------------------------------------------------------------------------

KERNEL = b"\0asm\1\0\0\0" + b"kernel" * 4
Broken = Callable[[], Any]


def broken() -> Iterator[tuple[str, Broken]]:
    """What is wrong, and how to see its error."""
    header = hd.Header(version="1.0", name="a", neural_config=hd.NeuralConfig(2, 1))
    plain = agentfile.build(header, {"wasm_kernel": KERNEL}, compress=False)
    packed = agentfile.build(header, {"wasm_kernel": KERNEL})
    signed = agentfile.sign(plain, publisher_key=RFC_8032_TEST_1)
    weights = agentfile.build(header, {"neural_weights": struct.pack("<2f", 1.0, 2.0)}, compress=False)
    nan = struct.pack("<2f", 1.0, float("nan"))
    sums = [hashlib.sha256(data).hexdigest().encode() for data in (struct.pack("<2f", 1.0, 2.0), nan)]

    def reading(data: bytes) -> Broken:
        return lambda: agentfile.read(data, who="a.af")

    yield "no file of ours", reading(b"%PDF-1.7\n")
    yield "another format", reading(plain.replace(b"-AF 1", b"-AF 2"))
    yield "not UTF-8", reading(plain.replace(b"name: a", b"name: \xff"))
    yield "not YAML", reading(plain.replace(b"name: a", b"name: [a"))
    yield "an anchor, alias or tag", reading(plain.replace(b"name: a", b"name: &x a"))
    yield "a key twice", reading(plain.replace(b"name: a", b"version: x"))
    yield "too deep", reading(plain.replace(b"name: a", b"name: " + b"[" * 17))
    yield "unknown key", reading(plain.replace(b"name: a", b"name: a\nwirings: {}"))
    yield "missing key", reading(plain.replace(b"name: a\n", b""))
    yield "wrong type", reading(plain.replace(b"input_size: 2", b"input_size: two"))
    yield "out of range", reading(plain.replace(b"input_size: 2", b"input_size: 0"))
    yield "keys that do not agree", reading(plain.replace(b"name: a", b"name: a\nmemory: {width: 1}"))
    yield "unknown workflow step", reading(plain.replace(b"name: a", b"name: a\nworkflows: {shutdown: [save]}"))
    yield "truncated", reading(plain[:-1])
    yield "a wrong length", reading(plain.replace(b"length: 32\n", b"length: 31\n", 1))
    yield "a wrong length, both", reading(plain.replace(b"length: 32\n", b"length: 31\n"))
    yield "marker not where the table says", reading(plain.replace(b"N:wasm", b"N:wasn"))
    yield "hash broken", reading(plain[:-1] + b"!")
    yield "something after the end", reading(plain + b"more")
    yield "bomb", reading(packed.replace(b"raw_length: 32", b"raw_length: 32000000"))
    yield "zstd of another size", reading(packed.replace(b"raw_length: 32", b"raw_length: 33"))
    yield (
        "kernel that is not wasm",
        reading(agentfile.build(header, {"training_data": b"MZ"}).replace(b"training_data", b"wasm_kernel")),
    )
    yield "NaN in weights", reading(weights.replace(struct.pack("<2f", 1.0, 2.0), nan).replace(*sums))
    yield "header too long", reading(MAGIC + b"#" * (limits.AF_HEADER_BYTES_MAX + 1))
    yield "signature malformed", reading(signed[:-1])
    yield "not signed", lambda: agentfile.verify(agentfile.read(plain, who="a.af"), {})
    yield "publisher unknown", lambda: agentfile.verify(agentfile.read(signed, who="a.af"), {})
    changed = signed.replace(b"name: a", b"name: b")
    key = agentfile.read(signed).signature
    assert key is not None
    known = {key.publisher: bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")}
    yield "changed after signing", lambda: agentfile.verify(agentfile.read(changed, who="a.af"), known)


def test_golden_table_of_errors() -> None:
    rows = ["| what is wrong | error | text |", "|---|---|---|"]
    for what, act in broken():
        with pytest.raises(EdgeSwarmError) as caught:
            act()
        text = str(caught.value).replace("\n", " ⏎ ").replace("|", "&#124;")
        text = re.sub(r"\b[0-9a-f]{64}\b", "…", text)
        rows.append(f"| {what} | `{type(caught.value).__name__}` | {text} |")
    check_part("errors", "\n" + "\n".join(rows) + "\n\n")


# --- numbers in the text --------------------------------------------------------------------------------------------


def test_numbers_of_the_document_are_those_of_the_code() -> None:
    text = DOC.read_text()
    for number, written in (
        (limits.AF_HEADER_BYTES_MAX >> 20, "at most 1 MiB, up to the first marker"),
        (limits.AF_FILE_BYTES_MAX >> 20, "A file has at most 272 MiB"),
        (limits.AF_SECTION_BYTES_MAX >> 20, "are at most 256 MiB"),
        (limits.AF_SIGNATURE_BYTES_MAX, "at most 1024 bytes"),
        (limits.AF_YAML_DEPTH_MAX, "more than 16 levels"),
        (limits.AF_EXPANSION_RATIO_MAX, "at most 200 times"),
        (limits.TEXT_CHARS_MAX, "at most 4096 characters"),
        (limits.KERNEL_WASM_BYTES_MAX >> 20, "at most 16 MiB"),
        (limits.AF_TEXT_SECTIONS_BYTES_MAX >> 20, "together have at most 1 MiB"),
    ):
        assert str(number) in written
        assert written in text
    assert f"{limits.AF_YAML_NODES_MAX:,} keys and values" in text
    assert f"`{EXTERNAL_AAD.decode()}`" in text
    assert ", ".join(f"`{name}`" for name in writer.ORDER) in text.replace("\n", " ")
