"""Names of capabilities: one spelling each, denied unless granted, and nobody grants more than he may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeswarm.limits import CAPABILITIES_MAX
from edgeswarm.wire.capability import ALL, CapabilityError, canonical, covers, defaults, granted, grants_of, scoped
from edgeswarm.wire.certificate import ROLES, Authority


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("neural.compute", "neural.compute"),
        ("NEURAL_COMPUTE", "neural.compute"),
        ("MEMORY_ACCESS@mlp", "memory.access@mlp"),
        ("STREAM_PUBLISH", "stream.publish:*"),
        ("STREAM_PUBLISH:mlp", "stream.publish:mlp"),
        ("stream.publish:cam*", "stream.publish:cam*"),
        ("DEPLOY", "deploy"),
        ("REVOKE", "revoke"),
        ("TOKEN", "token"),
        ("TOOL_EXEC", "tool:exec"),
        ("TOOL_HTTP_GET@mlp", "tool:http-get@mlp"),
        ("TOOL_*", "tool:*"),
        ("tool:*", "tool:*"),
    ],
)
def test_each_spelling_has_one_name(text: str, expected: str) -> None:
    assert canonical(text) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "neural.*",
        "neural_compute",
        "Neural.compute",
        "NEURAL COMPUTE",
        "stream.publish",
        "stream.publish:",
        "stream.publish:Not A Name",
        "stream.publish:*mlp",
        "stream.publish:a*b*",
        "tool:",
        "tool:" + "x" * 40,
        "TOOL_",
        "tool:x@",
        "deploy@Not A Name",
        "deploy@*",
        "deploy@a@b",
        "deploy:all",
        "TOKEN:x",
        "x" * 10_000,
        "neural.compute\0",
    ],
)
def test_what_names_no_capability_is_refused_by_name(text: str) -> None:
    with pytest.raises(CapabilityError, match="expected") as found:
        canonical(text)
    assert len(str(found.value)) < 400


@pytest.mark.parametrize(
    ("grants", "asked", "agent", "expected"),
    [
        ((), "deploy", "", False),
        (("deploy",), "deploy", "", True),
        (("deploy",), "deploy", "mlp", True),
        (("deploy@mlp",), "deploy", "mlp", True),
        (("deploy@mlp",), "deploy", "other", False),
        (("deploy@mlp",), "deploy", "", False),
        (("deploy@mlp",), "deploy@mlp", "", True),
        (("tool:*",), "tool:exec", "", True),
        (("tool:ex*",), "tool:webhook", "", False),
        (("tool:*@mlp",), "tool:exec", "mlp", True),
        (("tool:*@mlp",), "tool:exec", "", False),
        (("stream.publish:mlp",), "stream.publish:mlp2", "mlp2", False),
        (("stream.publish:*",), "stream.publish:mlp", "mlp", True),
        (("stream.publish:mlp",), "stream.publish:*", "", False),
        (("neural.compute",), "neural.compute.more", "", False),
        (("revoke", "deploy@a", "deploy@b"), "deploy", "b", True),
    ],
)
def test_a_capability_is_granted_to_the_letter(grants: tuple[str, ...], asked: str, agent: str, expected: bool) -> None:
    assert granted(grants, asked, agent) is expected


def test_a_grant_to_one_agent_is_a_grant_at_all() -> None:
    assert scoped(("neural.compute@mlp",), "neural.compute")
    assert not scoped(("deploy",), "neural.compute")


@pytest.mark.parametrize(
    ("grant", "wanted", "expected"),
    [
        ("tool:*", "tool:*", True),
        ("tool:*", "tool:ex*@mlp", True),
        ("tool:exec", "tool:*", False),
        ("tool:ex*", "tool:*", False),
        ("neural.compute", "neural.compute@mlp", True),
        ("neural.compute@mlp", "neural.compute", False),
        ("neural.compute@mlp", "neural.compute@other", False),
        ("deploy", "revoke", False),
    ],
)
def test_an_issuer_grants_the_same_or_less(grant: str, wanted: str, expected: bool) -> None:
    assert covers(grant, wanted) is expected
    assert Authority("f", "issuer", "i", bytes(32), 0, 1, (grant,)).may_grant(wanted) is expected


_grants = st.builds(
    lambda name, agent: name + agent,
    st.sampled_from([*ALL, "tool:ex*", "tool:exec", "stream.publish:cam", "stream.publish:c*"]),
    st.sampled_from(["", "@mlp", "@cam"]),
)


@given(
    _grants, _grants, st.sampled_from([*ALL, "tool:exec", "stream.publish:cam"]), st.sampled_from(["", "mlp", "cam"])
)
def test_who_is_granted_what_a_grant_covers_has_no_more_than_its_giver(
    giver: str, given_on: str, asked: str, agent: str
) -> None:
    if covers(giver, given_on) and granted((given_on,), asked, agent):
        assert granted((giver,), asked, agent)


def test_by_default_a_role_gets_little() -> None:
    assert set(ROLES) == {"worker", "reader", "coordinator", "administrator"}
    for role in ROLES:
        assert grants_of(defaults(role)) == defaults(role)
    assert defaults("reader") == ()
    assert defaults("worker") == defaults("coordinator") == ("neural.compute",)
    assert not any(granted(defaults(role), one) for role in ROLES for one in ("memory.access", "tool:exec"))
    with pytest.raises(CapabilityError, match="expected one of worker"):
        defaults("root")


def test_grants_are_sorted_each_once_and_bounded() -> None:
    assert grants_of([" TOKEN", "deploy", "token", "DEPLOY"]) == ("deploy", "token")
    assert grants_of(ALL) == ALL
    with pytest.raises(CapabilityError, match=f"at most {CAPABILITIES_MAX}"):
        grants_of(f"tool:t{number}" for number in range(CAPABILITIES_MAX + 1))
