"""Tokens: the text is the token, nothing else is, and the secret is nowhere to be seen."""

from __future__ import annotations

import hmac
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.limits import TOKEN_BROKERS_MAX, TOKEN_CHARS_MAX
from edgeswarm.wire import codec, token
from edgeswarm.wire.token import Token, TokenError

HOSTS = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,40}", fullmatch=True)
URLS = st.builds("mqtts://{}:{}".format, HOSTS, st.integers(1, 65_535))
TOKENS = st.builds(
    lambda brokers, fleet, ca, entropy: token.make(tuple(brokers), fleet, ca, entropy=entropy),
    st.lists(URLS, min_size=1, max_size=TOKEN_BROKERS_MAX),
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=24, max_size=24),
)


def a_token() -> Token:
    return token.make(("mqtts://broker.plant-7:8884",), "plant-7", bytes(range(32)), entropy=bytes(range(24)))


@given(TOKENS)
def test_text_of_a_token_reads_as_that_token(made: Token) -> None:
    text = token.text_of(made)
    assert token.parse(text) == made
    assert token.parse(f"  {text}\n") == made
    head, _, secret = text.rpartition(".")
    assert token.parse(f"{head}.{secret.upper()}") == made


@given(TOKENS, st.data())
def test_a_changed_character_never_reads_as_the_same_token(made: Token, data: st.DataObject) -> None:
    text = token.text_of(made)
    at = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.sampled_from("abcxyzABCXYZ0123456789-_.~"))
    changed = text[:at] + char + text[at + 1 :]
    try:
        found = token.parse(changed)
    except TokenError as error:
        assert text.rpartition(".")[2] not in str(error)
    else:
        assert found != made or changed.lower() == text.lower()


@given(st.text(max_size=200))
def test_no_text_makes_parse_fail_otherwise_than_with_its_own_error(text: str) -> None:
    for candidate in (text, "es1." + text, f"es1.{text}.aaaaaaaaaaaaaaaaaaaaaaaaaa"):
        with pytest.raises(TokenError):
            token.parse(candidate)


def test_parse_says_what_it_expected() -> None:
    text = token.text_of(a_token())
    head, _, secret = text.rpartition(".")
    for bad, says in (
        ("", "starts with 'es1'"),
        ("es2" + text[3:], "starts with 'es1'"),
        (head, "three parts"),
        (head + ".", "26 letters"),
        (f"{head}.{secret[:-1]}", "26 letters"),
        (f"{head}.{secret[:-1]}1", "26 letters"),
        (f"{head}.{secret[:-1]}b", "no encoding of 16 bytes"),
        (f"es1.{text.split('.')[1][:-4]}.{secret}", "middle part"),
        (f"es1.!!.{secret}", "not base64url"),
        ("es1." + "a" * TOKEN_CHARS_MAX, f"at most {TOKEN_CHARS_MAX} characters"),
    ):
        with pytest.raises(TokenError, match=says) as found:
            token.parse(bad)
        assert secret[:10] not in str(found.value)


def test_contents_are_bounded_on_both_sides() -> None:
    good = a_token()
    for changes, says in (
        ({"brokers": ()}, "1 to 4 brokers"),
        ({"brokers": ("mqtts://a:1",) * 5}, "1 to 4 brokers"),
        ({"brokers": ("mqtt://plain:1883",)}, "expected mqtts://"),
        ({"brokers": ("mqtts://user:secret@host:1",)}, "expected mqtts://"),
        ({"brokers": ("mqtts://" + "a" * 200,)}, "at most 128"),
        ({"fleet": "Plant 7"}, "name of a fleet"),
        ({"ca": b"short"}, "CA key of 32 bytes"),
        ({"id": "short"}, "an id of 13"),
        ({"secret": b"short"}, "secret of 16"),
    ):
        fields = {name: getattr(good, name) for name in ("brokers", "fleet", "ca", "id", "secret")}
        with pytest.raises(TokenError, match=says):
            token.text_of(Token(**{**fields, **changes}))
        if "secret" not in changes:
            import base64

            tree = [list({**fields, **changes}[name]) if name == "brokers" else {**fields, **changes}[name]
                    for name in ("brokers", "fleet", "ca", "id")]  # fmt: skip
            head = base64.urlsafe_b64encode(codec.dumps(tree)).rstrip(b"=").decode()
            with pytest.raises(TokenError):
                token.parse(f"es1.{head}.{'a' * 26}")


def test_secret_is_in_no_repr() -> None:
    made = a_token()
    shown = repr(made) + str(made) + repr([made]) + f"{made!r}"
    assert token.text_of(made).rpartition(".")[2] not in shown
    assert repr(made.secret) not in shown and made.secret.hex() not in shown


def test_hkdf_gives_the_vectors_of_rfc_5869() -> None:
    """A.1, A.2, A.3."""
    key = bytes.fromhex("0b" * 22)
    assert token.hkdf_sha256(key, salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)), length=42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    long = token.hkdf_sha256(
        bytes(range(0x50)), salt=bytes(range(0x60, 0xB0)), info=bytes(range(0xB0, 0x100)), length=82
    )
    assert long.hex().startswith("b11e398dc80327a1c8e7f78c596a4934") and long.hex().endswith("1d87")
    assert token.hkdf_sha256(key, salt=b"", info=b"", length=42).hex().startswith("8da4e775a563c18f715f802a063c5a31")


def test_signing_key_follows_from_secret_and_id_and_from_nothing_else() -> None:
    made = a_token()
    seed = token.signing_seed(made.secret, made.id)
    assert seed == token.signing_seed(made.secret, made.id)
    assert seed != token.signing_seed(made.secret, "aaaaaaaaaaaaa")
    assert seed != token.signing_seed(os.urandom(16), made.id)
    assert seed != hmac.digest(b"edgeswarm-token-1", made.secret, "sha256")
    signature = made.signatory().sign(b"x")
    from edgeswarm.wire import cose

    assert cose.check(made.public, b"x", signature)
