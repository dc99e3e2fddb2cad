"""Signatures: who signed, whether it holds, and what a person can do when it does not."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from edgeswarm import agentfile
from edgeswarm.agentfile import header as hd
from edgeswarm.agentfile.file import EXTERNAL_AAD, MAGIC, marker
from edgeswarm.errors import AgentFileError, LocalError, NotSignedError, SignatureError, UnknownPublisherError
from edgeswarm.wire import cose

from_seed = cose.public_key


def test_a_trusted_publishers_file_verifies(full_file: bytes, publisher: Any) -> None:
    assert agentfile.verify(agentfile.read(full_file), publisher.trusted) == publisher.id
    assert agentfile.verify(agentfile.read(full_file, wanted=()), publisher.trusted) == publisher.id


def test_an_unsigned_file_says_who_signs_it(small_file: bytes, publisher: Any) -> None:
    with pytest.raises(NotSignedError, match=r"a.af: not signed; .*edgeswarm agent sign"):
        agentfile.verify(agentfile.read(small_file, who="a.af"), publisher.trusted)


def test_an_unknown_publisher_says_where_its_key_goes(full_file: bytes, publisher: Any) -> None:
    with pytest.raises(UnknownPublisherError, match=rf"into trust.d/{publisher.id}.pub") as caught:
        agentfile.verify(agentfile.read(full_file, who="full.af"), {})
    assert isinstance(caught.value, SignatureError)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("old", [b"full", b"agent_version", b"stream", b"yes"])
def test_a_changed_header_breaks_the_signature(old: bytes, full_file: bytes, publisher: Any) -> None:
    """Changes that still make a valid header: only the signature tells."""
    changes = {b"full": b"null-x", b"agent_version": b"agent_version", b"stream": b"stream", b"yes": b"sey"}
    changed = full_file.replace(old, changes[old], 1).replace(b"2.10.3", b"2.10.4")
    with pytest.raises(SignatureError, match="was changed after it was signed"):
        agentfile.verify(agentfile.read(changed), publisher.trusted)


def test_a_comment_in_the_header_breaks_the_signature(full_file: bytes, publisher: Any) -> None:
    changed = full_file.replace(MAGIC, MAGIC + b"# comment\n")
    assert agentfile.read(changed).header == agentfile.read(full_file).header
    with pytest.raises(SignatureError, match="does not match"):
        agentfile.verify(agentfile.read(changed), publisher.trusted)


def test_another_key_under_the_publishers_name_does_not_verify(full_file: bytes, publisher: Any) -> None:
    with pytest.raises(SignatureError, match="or the key in trust.d is another one"):
        agentfile.verify(agentfile.read(full_file), {publisher.id: from_seed(b"\7" * 32)})


def test_a_signature_for_another_purpose_does_not_verify(small_file: bytes, publisher: Any) -> None:
    af = agentfile.read(small_file)
    kid = publisher.id.encode()
    for aad, payload in ((b"edgeswarm-message", af.header_bytes), (EXTERNAL_AAD, af.header_bytes + b" ")):
        message = cose.sign1(payload, key_seed=publisher.seed, kid=kid, external_aad=aad, detached=True)
        with pytest.raises(SignatureError, match="does not match"):
            agentfile.verify(agentfile.read(small_file + marker("signature") + message), publisher.trusted)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"detached": False, "kid": b"0123456789abcdef"}, "expected a detached payload"),
        ({"detached": True, "kid": b"0123456789ABCDEF"}, "expected a key id of 16 hex digits"),
        ({"detached": True, "kid": b"0123"}, "expected a key id of 16 hex digits"),
        ({"detached": True, "kid": b"\xff" * 16}, "expected a key id of 16 hex digits"),
    ],
)
def test_a_signature_of_another_form_is_refused(
    options: dict[str, Any], text: str, small_file: bytes, publisher: Any
) -> None:
    message = cose.sign1(b"x", key_seed=publisher.seed, **options)
    with pytest.raises(SignatureError, match=text) as caught:
        agentfile.read(small_file + marker("signature") + message)
    assert caught.value.offset == len(small_file) + len(marker("signature"))


def test_sign_adds_or_replaces_the_signature_and_nothing_else(
    small_file: bytes, full_file: bytes, publisher: Any
) -> None:
    signed = agentfile.sign(small_file, publisher_key=publisher.seed)
    assert signed.startswith(small_file + marker("signature"))
    assert agentfile.verify(agentfile.read(signed), publisher.trusted) == publisher.id
    other = agentfile.sign(signed, publisher_key=b"\3" * 32)
    assert agentfile.sign(other, publisher_key=publisher.seed) == signed
    assert agentfile.sign(full_file, publisher_key=publisher.seed) == full_file


def test_a_header_alone_can_be_signed(publisher: Any) -> None:
    plain = MAGIC + b'version: "1.0"\nname: a\nneural_config: {input_size: 2, output_size: 1}\n'
    signed = agentfile.sign(plain, publisher_key=publisher.seed)
    assert agentfile.verify(agentfile.read(signed), publisher.trusted) == publisher.id


def test_sections_that_no_signature_covers_are_not_signed(sample: bytes, publisher: Any) -> None:
    with pytest.raises(AgentFileError, match="section neural_weights: not in the table"):
        agentfile.sign(sample, publisher_key=publisher.seed)


def test_a_bad_key_is_our_mistake(small_file: bytes) -> None:
    with pytest.raises(LocalError, match="signing key: expected 32 bytes, found 3"):
        agentfile.sign(small_file, publisher_key=b"abc")


def test_write_keeps_a_signature_that_still_holds(full_file: bytes) -> None:
    assert agentfile.write(agentfile.read(full_file)) == full_file


def test_write_will_not_carry_a_signature_over_to_other_content(full_file: bytes, publisher: Any) -> None:
    af = agentfile.read(full_file)
    changed = replace(af, header=replace(af.header, author="somebody else"))
    with pytest.raises(LocalError, match="not what was signed"):
        agentfile.write(changed)
    unsigned = agentfile.write(replace(changed, signature=None))
    assert agentfile.read(unsigned).signature is None
    signed = agentfile.read(agentfile.write(changed, publisher_key=publisher.seed))
    assert signed.header.author == "somebody else"
    assert agentfile.verify(signed, publisher.trusted) == publisher.id


def test_write_refuses_what_was_not_kept_on_reading(full_file: bytes) -> None:
    with pytest.raises(LocalError, match="section neural_weights is in the table and was not kept"):
        agentfile.write(agentfile.read(full_file, wanted=("golden",)))


# --- build ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ({"weights": b""}, "section weights: unknown; expected one of neural_weights, wasm_kernel"),
        ({"wasm_kernel": b"no"}, "section wasm_kernel: expected a wasm module, found 6e6f"),
        ({"neural_weights": struct.pack("<2f", 0.0, float("nan"))}, "found nan at index 1"),
        ({"golden": b"\0" * 16}, r"sections\[0\].shape: expected 16 bytes"),
        (
            {"neural_weights": agentfile.Section(b"\0" * 8, "f32", (3,))},
            "expected 8 bytes .raw_length., found 12 of f32",
        ),
        ({"neural_weights": agentfile.Section(b"\0" * 8, "f64", (1,))}, "dtype: expected one of f32, i8, u8"),
    ],
)
def test_build_refuses_what_read_would(small_header: hd.Header, sections: dict[str, Any], text: str) -> None:
    with pytest.raises(AgentFileError, match=text):
        agentfile.build(small_header, sections)


def test_build_refuses_a_header_that_does_not_agree_or_read_back(small_header: hd.Header) -> None:
    with pytest.raises(AgentFileError, match="memory.width: expected less"):
        agentfile.build(replace(small_header, memory=hd.MemorySpec(1)), {})
    with pytest.raises(
        AgentFileError, match="small: author: expected text without NUL and without half a surrogate pair"
    ):
        agentfile.build(replace(small_header, author="\ud800"), {})
    with pytest.raises(LocalError, match="capabilities does not read back .* lists must be tuples"):
        agentfile.build(replace(small_header, capabilities=["exec_sink"]), {})  # type: ignore[arg-type]


def test_build_states_dtype_and_shape(small_header: hd.Header) -> None:
    data = agentfile.build(small_header, {"neural_weights": b"\0" * 8, "golden": b"\0" * 24})
    weights, golden = agentfile.read(data).header.sections
    assert (weights.dtype, weights.shape) == ("f32", (2,))
    assert (golden.dtype, golden.shape) == ("f32", (2, 3))
    odd = agentfile.build(small_header, {"neural_weights": b"\0" * 7})
    assert (agentfile.read(odd).header.sections[0].dtype) == "u8"
    shaped = agentfile.read(
        agentfile.build(small_header, {"neural_weights": agentfile.Section(b"\1" * 8, "i8", (2, 4))})
    )
    rebuilt = agentfile.read(agentfile.build(shaped.header, {"neural_weights": b"\2" * 8}))
    assert (rebuilt.header.sections[0].dtype, rebuilt.header.sections[0].shape) == ("i8", (2, 4))


def test_created_is_an_argument(small_header: hd.Header) -> None:
    moment = agentfile.moment(1_700_000_000)
    assert moment == "2023-11-14T22:13:20Z"
    header = agentfile.read(agentfile.build(small_header, {}, created=moment)).header
    assert (header.created, header.modified) == (moment, moment)
    header = agentfile.read(agentfile.build(header, {}, modified=agentfile.moment(0))).header
    assert (header.created, header.modified) == (moment, "1970-01-01T00:00:00Z")


def test_compression_is_used_where_it_saves_and_never_past_the_bomb_bound(small_header: hd.Header) -> None:
    noise = bytes(n * n * 7919 % 251 for n in range(1000))
    kinds = {
        name: agentfile.read(agentfile.build(small_header, {"training_data": raw}, compress=compress)).header.sections[
            0
        ]
        for name, raw, compress in (
            ("text", b"some text, " * 99, True),
            ("text, asked not to", b"some text, " * 99, False),
            ("noise", noise[:64], True),
            ("zeros", b"\0" * 1_000_000, True),
            ("nothing", b"", True),
        )
    }
    assert {name: entry.encoding for name, entry in kinds.items()} == {
        "text": "zstd",
        "text, asked not to": "none",
        "noise": "none",
        "zeros": "none",
        "nothing": "none",
    }
