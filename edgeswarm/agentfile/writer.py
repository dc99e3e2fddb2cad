"""An agent file from its parts, as bytes.

Decides how a file is laid out, nothing about its content.  Invariants: the same arguments give the same bytes (no
clock, no randomness: Ed25519 is deterministic; zstd has one level and one thread, so only another zstd release may
differ); what it writes `read` takes, and gives back as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Final

from edgeswarm import schema
from edgeswarm.agentfile import sections as section_bytes
from edgeswarm.agentfile import yamltext
from edgeswarm.agentfile.file import MAGIC, MARKER_START, SIGNATURE, AgentFile, Section, marker
from edgeswarm.agentfile.header import Header, SectionEntry, SectionName
from edgeswarm.agentfile.reader import decode_header, read
from edgeswarm.agentfile.sections import Encoding
from edgeswarm.agentfile.signature import sign_header
from edgeswarm.errors import AgentFileError, LimitError, LocalError
from edgeswarm.limits import AF_FILE_BYTES_MAX, AF_HEADER_BYTES_MAX

ORDER: Final[tuple[SectionName, ...]] = (
    "neural_weights",
    "wasm_kernel",
    "golden",
    "training_data",
    "model",
    "fann",
    "tflite",
)
"""Of the sections of files that are built here: what runs first, what only its maker wants last."""


def moment(epoch_s: int) -> str:
    """Seconds since 1970 (SOURCE_DATE_EPOCH, a file's mtime) as `created` and `modified` want them."""
    return datetime.fromtimestamp(epoch_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build(
    header: Header,
    sections: Mapping[str, bytes | Section],
    *,
    publisher_key: bytes | None = None,
    created: str | None = None,
    modified: str | None = None,
    compress: bool = True,
) -> bytes:
    """The file of `header` with `sections`, signed if there is a key.

    sections: name -> Section, or bytes: then dtype and shape are those of the header's table where it has that section
    in that length, else f32 rows for `golden`, flat f32 (or u8) for `neural_weights`, none for the others.
    publisher_key: 32-byte Ed25519 seed.  created: None keeps the header's; modified: None takes what `created` is.
    Raises AgentFileError where the parts do not fit each other, LimitError.
    """
    if created is not None:
        header = replace(header, created=created, modified=modified if modified is not None else created)
    elif modified is not None:
        header = replace(header, modified=modified)
    encoding: Encoding | None = None if compress else "none"
    body, header_bytes = _lay_out(header, sections, dict.fromkeys(ORDER, encoding), ORDER)
    return body if publisher_key is None else body + marker(SIGNATURE) + sign_header(header_bytes, publisher_key)


def write(af: AgentFile, *, publisher_key: bytes | None = None) -> bytes:
    """The file of `af`, signed anew if there is a key; else with its own signature, if that still covers the header.

    For a file of `build`, write(read(data)) == data.  Raises LocalError when the content is no longer what was signed
    (sign it with a key, or drop `signature`), or when sections were not kept on reading.
    """
    missing = [entry.name for entry in af.header.sections if entry.name not in af.sections]
    if missing:
        raise LocalError(f"write: section {missing[0]} is in the table and was not kept when the file was read")
    known: dict[SectionName, Encoding | None] = {entry.name: entry.encoding for entry in af.header.sections}
    order = [*known, *(name for name in ORDER if name not in known)]
    body, header_bytes = _lay_out(af.header, af.sections, known, order)
    if publisher_key is not None:
        return body + marker(SIGNATURE) + sign_header(header_bytes, publisher_key)
    if af.signature is None:
        return body
    if header_bytes != af.header_bytes:
        raise LocalError("write: the content is not what was signed; pass a publisher's key, or drop the signature")
    return body + marker(SIGNATURE) + af.signature.message


def sign(data: bytes, *, publisher_key: bytes, who: str = "") -> bytes:
    """The agent file `data` with a new signature in place of its own; not a byte of the rest changes.

    Raises AgentFileError for what is no agent file or has sections that no signature covers.
    """
    af = read(data, who=who, wanted=())
    if af.unlisted:
        name = next(iter(af.unlisted))
        raise AgentFileError(f"section {name}: not in the table `sections`, so no signature would cover it", who=who)
    return data[: af.body_bytes] + marker(SIGNATURE) + sign_header(af.header_bytes, publisher_key)


def _lay_out(
    header: Header,
    sections: Mapping[str, bytes | Section],
    encodings: Mapping[SectionName, Encoding | None],
    order: tuple[SectionName, ...] | list[SectionName],
) -> tuple[bytes, bytes]:
    """(the file without signature, its YAML)."""
    unknown = [name for name in sections if name not in ORDER]
    if unknown:
        raise AgentFileError(f"section {unknown[0]}: unknown; expected one of {', '.join(ORDER)}", who=header.name)
    entries: list[SectionEntry] = []
    stored: list[bytes] = []
    for name in order:
        if name in sections:
            section = _described(header, name, sections[name])
            section_bytes.check_content(name, section.raw, dtype=section.dtype, who=header.name)
            entry, data = section_bytes.store(name, section, encoding=encodings.get(name))
            section_bytes.check_declared(entry, who=header.name)
            entries.append(entry)
            stored += (marker(name), data)
    header_bytes = emit_header(replace(header, sections=tuple(entries)))
    body = b"".join((MAGIC, header_bytes, *stored))
    if len(body) > AF_FILE_BYTES_MAX:
        raise LimitError(f"{header.name}: an agent file has at most {AF_FILE_BYTES_MAX} bytes, found {len(body)}")
    return body, header_bytes


def emit_header(header: Header) -> bytes:
    """The YAML of `header`.

    Raises AgentFileError where `read` would, LimitError, and LocalError for a header made by hand that does not come
    back as it was (a list where a tuple belongs).
    """
    tree = schema.encode(header)
    found = decode_header(tree, {}, who=header.name, first_line=None)
    if found != header:
        keys = [field.name for field in fields(header) if getattr(found, field.name) != getattr(header, field.name)]
        raise LocalError(f"header {header.name}: {keys[0]} does not read back as it was given; lists must be tuples")
    text = yamltext.emit(tree)
    assert yamltext.parse(text, who=header.name).tree == tree, "YAML reads back as it was written"
    data = text.encode("utf-8")
    assert MARKER_START not in data, "texts are written in one line each"
    if len(data) > AF_HEADER_BYTES_MAX:
        raise LimitError(f"{header.name}: header: at most {AF_HEADER_BYTES_MAX} bytes, found {len(data)}")
    return data


def _described(header: Header, name: SectionName, section: bytes | Section) -> Section:
    if isinstance(section, Section):
        return section
    for entry in header.sections:
        if entry.name == name and entry.raw_length == len(section):
            return Section(section, entry.dtype, entry.shape)
    if name == "golden":
        width = header.neural_config.input_size + header.neural_config.output_size
        return Section(section, "f32", (len(section) // (4 * width), width))
    if name == "neural_weights":
        return Section(section, *(("f32", (len(section) // 4,)) if len(section) % 4 == 0 else ("u8", (len(section),))))
    return Section(section)
