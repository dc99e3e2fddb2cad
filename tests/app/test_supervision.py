"""OTP's strategies with real jails; quarantine after a forbidden system call; machines that cannot isolate enough."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from forbidden_worker import FORBIDDEN
from supervised import Bench, until

from edgeswarm.app import report
from edgeswarm.app import supervisor as supervisor_module
from edgeswarm.drivers import jails, profiles
from edgeswarm.drivers.jails import JailHost, Program
from edgeswarm.drivers.store import Deployed
from edgeswarm.errors import ConfigError, EdgeSwarmError, LocalError, TierError
from edgeswarm.ids import AgentName

SUPPORT = Path(__file__).resolve().parents[1] / "support"
NAMES = ("a", "b", "c")


@pytest_asyncio.fixture
async def escaping(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A supervisor whose jails make a forbidden system call when a frame asks them to."""
    await bench.supervisor.close()
    program = Program(worker="forbidden_worker", path=(str(SUPPORT),))
    monkeypatch.setattr(supervisor_module, "JailHost", functools.partial(JailHost, program=program))
    bench.supervisor = bench.make()
    await bench.supervisor.start()
    yield bench
    await bench.supervisor.close()


def pids(bench: Bench) -> dict[str, int]:
    table = bench.supervisor.node.table.agents
    return {name: bench.supervisor.jails[agent.jail].pid for name, agent in table.items() if agent.jail}


def is_running(bench: Bench, *names: str) -> bool:
    return all(bench.supervisor.status[AgentName(name)][0] == "running" for name in names)


@pytest.mark.parametrize(
    ("strategy", "restarted"), [("one_for_one", "b"), ("one_for_all", "abc"), ("rest_for_one", "bc")]
)
async def test_who_is_restarted_with_whom_is_what_the_network_declares(
    bench: Bench, strategy: str, restarted: str
) -> None:
    """Each agent has a jail of its own; b's is killed; d is of another network and never notices."""
    supervision = {"network": "n", "strategy": strategy, "backoff_ms": 10.0}
    files = [bench.mlp(name, supervision=supervision, isolation="own-jail") for name in NAMES]
    await bench.supervisor.deploy([("t", data) for data in files])
    await bench.supervisor.deploy([("t", bench.mlp("d"))])
    before = pids(bench)
    os.kill(before["b"], signal.SIGKILL)
    agents = bench.supervisor.node.table.agents
    await until(lambda: agents[AgentName("b")].restarts_total == 1 and is_running(bench, *NAMES))
    after = pids(bench)
    assert "".join(name for name in NAMES if before[name] != after[name]) == restarted
    assert after["d"] == before["d"]
    for name in (*NAMES, "d"):
        assert await bench.supervisor.ask(name, [0.0] * 4, 5.0) is not None


async def test_agents_of_one_jail_die_together_and_come_back_together(bench: Bench) -> None:
    supervision = {"network": "n", "backoff_ms": 10.0}
    await bench.supervisor.deploy([("t", bench.mlp(name, supervision=supervision)) for name in NAMES])
    [pid] = set(pids(bench).values())
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not is_running(bench, *NAMES))
    await until(lambda: is_running(bench, *NAMES))
    [after] = set(pids(bench).values())
    assert after != pid


@pytest.mark.parametrize("end", ["stop", "remove"])
async def test_agent_that_waits_for_a_peer_starts_when_the_peer_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Agents of a network start together; one of them is stopped while its kernel is being compiled."""
    compiled, prepare = asyncio.Event(), bench.supervisor.shelf.prepare

    async def slow(artefact: Any, host: Any) -> None:
        if artefact.plan.name == "b":
            await compiled.wait()
        await prepare(artefact, host)

    monkeypatch.setattr(bench.supervisor.shelf, "prepare", slow)
    together = {"supervision": {"network": "n"}}
    waiting = asyncio.create_task(bench.supervisor.deploy([("t", bench.mlp(name, **together)) for name in "ab"]))
    await until(lambda: AgentName("a") in bench.supervisor.node.table.agents)
    await until(lambda: bench.supervisor.node.table.agents[AgentName("a")].prepared)
    await (bench.supervisor.stop("b") if end == "stop" else bench.supervisor.remove("b"))
    statuses = {row["name"]: row["status"] for row in await asyncio.wait_for(waiting, 10)}
    assert statuses == {"a": "running", "b": "stopped" if end == "stop" else "removed"}
    compiled.set()


async def test_swap_of_an_agent_whose_whole_network_is_restarted_is_told_that_it_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervision = {"network": "n", "strategy": "one_for_all", "backoff_ms": 10.0}
    more = {"supervision": supervision, "isolation": "own-jail"}
    await bench.supervisor.deploy([("t", bench.mlp(name, **more)) for name in "ab"])
    compiled, prepare = asyncio.Event(), bench.supervisor.shelf.prepare

    async def slow(artefact: Any, host: Any) -> None:
        await compiled.wait()
        await prepare(artefact, host)

    monkeypatch.setattr(bench.supervisor.shelf, "prepare", slow)
    swap = asyncio.create_task(bench.supervisor.swap("a", "t", bench.mlp(agent_version="2.0.0", **more)))
    await until(lambda: bench.supervisor.node.table.agents[AgentName("a")].pending)
    os.kill(pids(bench)["b"], signal.SIGKILL)
    with pytest.raises(LocalError, match="agent a: swap_failed: it was taken down for a restart"):
        await asyncio.wait_for(swap, 10)
    compiled.set()
    await until(lambda: is_running(bench, "a", "b"))
    assert bench.supervisor.flows.flows[AgentName("a")].version == "1.0.0"


async def test_agent_that_dies_too_often_fails_and_the_text_says_how_often(bench: Bench) -> None:
    supervision = {"network": "n", "restarts_max": 2, "within_s": 60.0, "backoff_ms": 10.0}
    await bench.supervisor.deploy([("t", bench.mlp(supervision=supervision)), ("t", bench.mlp("b"))])
    for death in (1, 2, 3):
        await until(lambda: is_running(bench, "a"))
        os.kill(pids(bench)["a"], signal.SIGKILL)
        await until(lambda: bench.supervisor.node.table.agents[AgentName("a")].restarts_total == death)  # noqa: B023
    await until(lambda: bench.supervisor.status[AgentName("a")][0] == "failed")
    assert bench.supervisor.status[AgentName("a")][1] == "ended by signal 9; more than 2 restarts in 60 s"
    assert await bench.supervisor.ask("b", [0.0] * 4, 5.0) is not None
    assert await bench.supervisor.start_agent("a") == "running"


async def test_back_off_doubles_from_restart_to_restart(bench: Bench) -> None:
    supervision = {"network": "n", "backoff_ms": 20.0, "backoff_ms_max": 60.0}
    await bench.supervisor.deploy([("t", bench.mlp(supervision=supervision))])
    for death in (1, 2, 3):
        await until(lambda: is_running(bench, "a"))
        os.kill(pids(bench)["a"], signal.SIGKILL)
        await until(lambda: bench.supervisor.node.table.agents[AgentName("a")].restarts_total == death)  # noqa: B023
    waits = [json.loads(line)["detail"].rpartition("again in ")[2] for line in bench.events("agent_backing_off")]
    assert waits == ["20 ms", "40 ms", "60 ms"]


async def test_forbidden_system_call_is_quarantine_for_the_agent_and_nobody_else(escaping: Bench) -> None:
    """Its neighbour of the same jail is restarted; no restart of the supervisor brings the agent back."""
    supervision = {"network": "n", "backoff_ms": 10.0}
    files = [escaping.mlp(name, supervision=supervision) for name in ("a", "b")]
    await escaping.supervisor.deploy([("t", data) for data in files])
    flow = escaping.supervisor.flows.flows[AgentName("a")]
    await flow.offer(0, (FORBIDDEN, 0.0, 0.0, 0.0), 0)
    await until(lambda: escaping.supervisor.status[AgentName("a")][0] == "quarantined")
    assert "SIGSYS" in escaping.supervisor.status[AgentName("a")][1]
    await until(lambda: is_running(escaping, "b"))
    assert await escaping.supervisor.ask("b", [0.0] * 4, 5.0) is not None
    with pytest.raises(LocalError, match="agent a: it is quarantined"):
        await escaping.supervisor.ask("a", [0.0] * 4, 5.0)
    [line] = escaping.events("jail_exited")
    assert '"quarantine":true' in line and '"suspects":["a"]' in line
    store = escaping.supervisor.store
    assert store is not None
    wanted = {row.name: row.wanted for row in await store.agents()}
    assert wanted == {"a": "stopped", "b": "running"}
    [(_, why, _)] = await store.frames_set_aside("a")
    assert why.startswith("poison: the jail died once")  # it is not tried again
    assert await escaping.supervisor.start_agent("a") == "running"  # only when an operator wants it
    assert await escaping.supervisor.ask("a", [0.0] * 4, 5.0) is not None


async def test_version_that_makes_a_forbidden_system_call_while_it_is_tried_does_not_replace_the_old_one(
    escaping: Bench,
) -> None:
    """Its golden vectors are computed in a jail before it sees a sample."""
    import numpy as np
    from supervised import header_tree

    from edgeswarm.app import builder

    await escaping.supervisor.deploy([("t", escaping.mlp())])
    model = builder.model_of(None, sizes=(4, 8, 2), activation="relu", output_activation="linear", seed=1)
    golden = np.full((1, 6), FORBIDDEN, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeswarm.compile.make_golden", lambda *_: golden)
        data = builder.build(header_tree("a", 4, 2, hidden=(8,), agent_version="2.0.0"), model, key=escaping.publisher)
    with pytest.raises(LocalError, match=r"swap_failed: a: the jail died on the golden vectors: .*SIGSYS"):
        await escaping.supervisor.swap("a", "t", data)
    assert await escaping.supervisor.ask("a", [0.0] * 4, 5.0) is not None


# --- machines ---------------------------------------------------------------------------------------------------------


async def start_on(bench: Bench, monkeypatch: pytest.MonkeyPatch, *, offers: str, **flags: Any) -> None:
    """Start a supervisor on a machine whose zygote finds tier `offers`."""
    await bench.supervisor.close()
    choose = jails.choose_tier

    def poorer(told: dict[str, Any], wanted: str | None) -> Any:
        layers = {**told["layers"], "seccomp": [offers != "D", "CONFIG_SECCOMP_FILTER is off"]}
        return choose({**told, "tier": offers, "layers": layers}, wanted)

    monkeypatch.setattr(jails, "choose_tier", poorer)
    bench.supervisor = bench.make(**flags)
    await bench.supervisor.start()


async def test_machine_without_seccomp_runs_nothing_and_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    text = r"no seccomp filters \(CONFIG_SECCOMP_FILTER is off\): nothing can be jailed; tier D"
    with pytest.raises(TierError, match=text):
        await start_on(bench, monkeypatch, offers="D")
    host = bench.supervisor.host
    assert host is not None and not host.zygote_pid  # and nothing is left behind


async def test_profile_that_wants_more_isolation_than_there_is_does_not_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TierError, match="isolation tier: A or better is wanted .*, this machine has B: no namespaces"):
        await start_on(bench, monkeypatch, offers="B", **{"jails.min_tier": "A"})
    host = bench.supervisor.host
    assert host is not None and not host.zygote_pid


@pytest.mark.parametrize("tier", ["B", "C"])
async def test_machine_of_a_lower_tier_runs_agents_and_shows_its_tier(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    await start_on(bench, monkeypatch, offers=tier, **{"jails.min_tier": "C"})
    await bench.supervisor.deploy([("t", bench.mlp())])
    assert await bench.supervisor.ask("a", [0.0] * 4, 5.0) is not None
    [*_, line] = bench.events("supervisor_started")
    assert f'"tier":"{tier}"' in line


@pytest.mark.parametrize("word", ["A", "B"])
async def test_a_zygote_that_finds_a_weaker_tier_later_needs_the_same_word(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Somebody sets user.max_user_namespaces to 0, then the zygote dies: no jail is made weaker than was agreed."""
    await start_on(bench, monkeypatch, offers="A", **{"jails.min_tier": word})
    supervisor = bench.supervisor
    await supervisor.deploy([("t", bench.mlp())])
    monkeypatch.setattr(jails, "choose_tier", lambda told, wanted: "B")
    assert supervisor.host is not None
    starts = supervisor.host.zygote_starts
    os.kill(supervisor.host.zygote_pid, signal.SIGKILL)
    await until(lambda: supervisor.host is not None and supervisor.host.zygote_starts > starts)
    if word == "A":
        with pytest.raises(EdgeSwarmError, match="isolation tier: A or better is wanted .*, this machine has B"):
            await supervisor.deploy([("t", bench.mlp("b", isolation="own-jail"))])
    else:
        await supervisor.deploy([("t", bench.mlp("b", isolation="own-jail"))])
        assert await supervisor.ask("b", [0.0] * 4, 5.0) is not None
    assert len(bench.events("isolation_degraded")) == (word == "B")
    assert supervisor.host.tier == ("A" if word == "A" else "B")
    assert await supervisor.ask("a", [0.0] * 4, 5.0) is not None, "who has a better jail keeps it"


@pytest.mark.parametrize(("offers", "word", "runs"), [
    ("B", "A", False), ("C", "A", False), ("C", "B", False), ("B", "B", True), ("B", "C", True),
])  # fmt: skip
async def test_weaker_tier_needs_the_operators_word_and_the_refusal_names_the_setting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, offers: str, word: str, runs: bool
) -> None:
    if runs:
        await start_on(bench, monkeypatch, offers=offers, **{"jails.min_tier": word})
        assert report.status(bench.supervisor)["degraded"] == "no namespaces"
        assert len(bench.events("isolation_degraded")) == 1
        return
    with pytest.raises(TierError) as caught:
        await start_on(bench, monkeypatch, offers=offers, **{"jails.min_tier": word})
    text = str(caught.value)
    assert f'min_tier = "{offers}" under [jails] in edgeswarm.toml' in text
    assert f"EDGESWARM_JAILS__MIN_TIER={offers}" in text
    assert "edgeswarm doctor --explain" in text
    assert ("no Landlock" in text) == (offers == "C")


def test_no_shipped_profile_speaks_for_the_operator() -> None:
    """Less than every layer is never the default: whoever runs the machine says so, or no agent starts."""
    for name in profiles.names():
        assert profiles.load(name).jails.min_tier == "A"


async def test_policy_that_the_profile_does_not_allow_is_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"t: sandbox: expected one of strict \(profile\), found 'build'"):
        await bench.supervisor.deploy([("t", bench.mlp(sandbox="build"))])


async def test_deployed_row_of_the_store_is_what_was_deployed(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp())])
    store = bench.supervisor.store
    assert store is not None
    artefact = bench.supervisor.shelf.current(AgentName("a")).plan.artefact
    assert await store.agents() == [Deployed("a", artefact, "running")]
