"""What is asked and answered when a certificate is renewed: both keys must have signed, and for this question."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.limits import RENEWAL_ANSWER_BYTES_MAX, RENEWAL_REQUEST_BYTES_MAX
from edgeswarm.wire import codec, cose, renewal
from edgeswarm.wire.certificate import Signatory
from edgeswarm.wire.renewal import Answer, RenewalError, Request

OLD, NEW, ISSUER, OTHER = (Signatory.from_seed(bytes([n]) * 32) for n in range(1, 5))
NONCE = b"n" * 16
REQUEST = Request("plant", "d1", NEW.public, OLD.public, NONCE)
DAY_S = 86_400


def signed(request: Request = REQUEST, *, new: Signatory = NEW, old: Signatory = OLD) -> bytes:
    return renewal.sign_request(request, new=new, old=old)


def test_request_round_trips() -> None:
    assert renewal.open_request(signed(), fleet="plant", device="d1") == REQUEST


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"x" * (RENEWAL_REQUEST_BYTES_MAX + 1),
        signed(new=OTHER),
        signed(old=OTHER),
        signed(Request("plant", "d1", NEW.public, OLD.public, NONCE[:3])),
        signed(Request("plant", "D 1", NEW.public, OLD.public, NONCE)),
        signed(Request("plant", "d1", NEW.public, OLD.public, NONCE, b"short")),
        cose.sign1_by(codec.dumps([1, 2]), sign=OLD.sign, kid=OLD.kid),
        cose.sign1_by(b"", sign=OLD.sign, kid=OLD.kid),
    ],
)
def test_request_that_both_keys_did_not_sign_is_refused(data: bytes) -> None:
    with pytest.raises(RenewalError):
        renewal.open_request(data, fleet="plant", device="d1")


def test_request_of_another_device_or_fleet_is_refused() -> None:
    for fleet, device in (("plant", "d2"), ("other", "d1")):
        with pytest.raises(RenewalError, match="expected"):
            renewal.open_request(signed(), fleet=fleet, device=device)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_any_flipped_bit_of_a_request_is_noticed(at: int, bit: int) -> None:
    data = bytearray(signed())
    data[at % len(data)] ^= 1 << bit
    try:
        found = renewal.open_request(bytes(data), fleet="plant", device="d1")
    except RenewalError:
        return
    assert found == REQUEST, "a key id in a header is nobody's word"


ANSWER = Answer("", "", b"chain", b"ca", b"roster", (b"root",), ("mqtts://h:1",), 17)


def test_answer_is_believed_for_its_own_question_only() -> None:
    data = renewal.sign_answer(ANSWER, REQUEST, ISSUER)
    assert renewal.read_answer(data) == ANSWER
    renewal.check_answer(data, REQUEST, lambda kid: ISSUER.public if kid == ISSUER.kid else None)
    other = Request("plant", "d1", NEW.public, OLD.public, b"m" * 16)
    for request, public in ((other, ISSUER.public), (REQUEST, OTHER.public), (REQUEST, None)):
        with pytest.raises(RenewalError):
            renewal.check_answer(data, request, lambda kid, public=public: public)  # type: ignore[misc]


@pytest.mark.parametrize(
    "answer",
    [
        Answer("", "", b"", b"ca", b"roster"),
        Answer("x" * 33, "why"),
        Answer("", "", b"c", b"ca", b"r", (b"x",) * 17),
        Answer("", "", b"c", b"ca", b"r", (), ("u" * 200,)),
        Answer("", "", b"c" * 100_000, b"ca", b"r"),
        Answer("unknown", "", now_s=-1),
    ],
)
def test_answers_out_of_their_bounds_are_refused(answer: Answer) -> None:
    with pytest.raises(RenewalError):
        renewal.read_answer(renewal.sign_answer(answer, REQUEST, ISSUER))


def test_bytes_that_are_no_answer_are_refused() -> None:
    for data in (b"", b"\x00" * 10, b"x" * (RENEWAL_ANSWER_BYTES_MAX + 1)):
        with pytest.raises(RenewalError):
            renewal.read_answer(data)


def test_sealed_request_opens_for_the_issuer_only() -> None:
    sealed = renewal.seal_to_issuer(b"hello", ISSUER.public)
    assert renewal.open_as_issuer(sealed, b"\3" * 32) == b"hello"
    with pytest.raises(RenewalError):
        renewal.open_as_issuer(sealed, b"\4" * 32)
    with pytest.raises(RenewalError):
        renewal.open_as_issuer(sealed[:-1], b"\3" * 32)


def test_topics_of_renewals_are_told_from_joins() -> None:
    topic = renewal.Topic("plant", "d1", NONCE)
    assert renewal.parse_topic(topic.request) == topic
    for text in ("", "es/1/plant/join/abcdefgh23456/" + "0" * 32 + "/request", topic.answer, topic.request + "/x"):
        assert renewal.parse_topic(text) is None
    assert renewal.parse_topic(topic.request.replace("renew-d1", "renew-D1")) is None


@given(st.integers(0, 1 << 32), st.integers(60, 400 * DAY_S), st.text("abcdefgh0123456789-", min_size=1, max_size=20))
def test_renewal_is_due_at_two_thirds_of_the_life_give_or_take(begin: int, life: int, device: str) -> None:
    due = renewal.due_at(begin, begin + life, device)
    assert begin + life * 0.6 <= due <= begin + life * 0.73
    assert due == renewal.due_at(begin, begin + life, device)


def test_a_thousand_devices_are_due_over_three_days() -> None:
    dues = [renewal.due_at(0, 30 * DAY_S, f"d{number}") for number in range(1_000)]
    assert 18.4 * DAY_S < min(dues) < 19 * DAY_S and 21 * DAY_S < max(dues) < 21.6 * DAY_S


def test_issuer_takes_no_request_in_the_first_sixth_unless_issuers_change() -> None:
    assert not renewal.may_renew(0, 30 * DAY_S, 4 * DAY_S, same_issuer=True)
    assert renewal.may_renew(0, 30 * DAY_S, 5 * DAY_S, same_issuer=True)
    assert renewal.may_renew(0, 30 * DAY_S, 0, same_issuer=False)
