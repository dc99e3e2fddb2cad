"""The whole program on machines unlike this one: `doctor`, `agent run` and the supervisor, with nothing mocked.

Each machine is this one with system calls refused by a filter, or a poorer namespace (tests/support/machines.py): there
it is seen which tier is found, that nothing runs without the operator's word, and that with it a jail really serves.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import machines as m
import pytest
from supervised import header_tree

from edgeswarm.app import builder
from edgeswarm.drivers import doctor, keys
from edgeswarm.drivers.control import ControlClient, NotRunningError
from edgeswarm.errors import ConfigError, TierError

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(m.ARCH not in ("x86_64", "aarch64"), reason="no filters for this machine"),
]
REFUSED = TierError.exit_code
UNSHARE = json.loads((m.ROOT / "firmware_configs/linux/container/edgeswarm-seccomp.json").read_text())["syscalls"]
NO_SPACE = "echo 0 >/proc/sys/user/max_user_namespaces"
READ_ONLY = "for at in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts); do mount -o remount,bind,ro $at || exit 9; done"
NO_GROUPS = "mount -t tmpfs -o ro none /sys/fs/cgroup"


def machine(name: str) -> list[str]:
    match name:
        case "docker":
            return m.without(m.DOCKER)
        case "docker before Landlock and mseal":
            return m.without(m.OLD_DOCKER)
        case "unshare refused":
            return m.without(m.NO_NAMESPACES)
        case "no user namespace left":
            return m.in_namespace(script=NO_SPACE)
        case "no Landlock":
            return m.without(m.NO_LANDLOCK)
        case "old kernel in a container":
            return m.without({**m.OLD_KERNEL, **m.NO_NAMESPACES})
        case "no mseal, no clone3, no close_range":
            return m.without({name: answer for name, answer in m.OLD_KERNEL.items() if "landlock" not in name})
        case "read-only cgroups":
            return m.in_namespace("--mount", script=READ_ONLY)
        case "no cgroups":
            return m.in_namespace("--mount", script=NO_GROUPS)
        case "docker with our calls added":
            named = {call for rule in UNSHARE for call in rule["names"] if "args" not in rule}
            masked = {call: rule["args"][0]["value"] for rule in UNSHARE if "args" in rule for call in rule["names"]}
            rules = {call: answer for call, answer in m.OLD_DOCKER.items() if call not in named}
            return m.without(rules, masked=masked)
    raise AssertionError(name)


TIER = {
    "docker": "B",
    "docker before Landlock and mseal": "C",
    "unshare refused": "B",
    "no user namespace left": "B",
    "no Landlock": "C",
    "old kernel in a container": "C",
    "no mseal, no clone3, no close_range": "A",
    "read-only cgroups": "A",
    "no cgroups": "A",
    "docker with our calls added": "A",
}
NEED_NAMESPACES = {name for name, tier in TIER.items() if tier == "A"} | {"no user namespace left"}


@pytest.fixture(scope="session")
def here() -> doctor.Report:
    return doctor.examine()


@pytest.fixture(params=list(TIER))
def unlike(request: pytest.FixtureRequest, here: doctor.Report) -> tuple[str, list[str]]:
    name: str = request.param
    if here.tier != "A" and (name in NEED_NAMESPACES or here.tier > TIER[name]):
        pytest.skip(f"this machine is of tier {here.tier} itself")
    command = machine(name)
    if m.run(command, ["true"]).returncode:
        pytest.skip("this machine cannot be made poorer in that way")
    return name, command


@pytest.fixture
def home() -> Iterator[Path]:
    """State directory, open to the user that a machine may map us to; short, as a control socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="esm", dir="/tmp") as folder:
        yield Path(folder)


def agent_file(folder: Path) -> Path:
    """An agent of four inputs and nine rows for it."""
    key, _ = keys.load_or_make(folder / "publisher.key")
    model = builder.model_of(None, sizes=(4, 3, 2), activation="relu", output_activation="linear")
    path = folder / "a.af"
    path.write_bytes(builder.build(header_tree("a", 4, 2, hidden=(3,)), model, key=key))
    (folder / "rows.csv").write_text("a,b,c,d\n" + "0.5,-1,2,0.25\n" * 9)
    return path


def computed(home: Path, command: list[str], tier: str) -> subprocess.CompletedProcess[str]:
    wanted = m.edgeswarm("agent", "run", home / "a.af", "-i", home / "rows.csv", "-o", home / "out.csv", "--json")
    word = {"EDGESWARM_JAILS__MIN_TIER": tier} if tier else {}
    return m.run(command, wanted, EDGESWARM_STATE=str(home / "state"), HOME=str(home), **word)


@pytest.fixture(scope="module")
def ours() -> Iterator[str]:
    """What the agent answers on the whole machine."""
    with tempfile.TemporaryDirectory(prefix="esm", dir="/tmp") as folder:
        agent_file(Path(folder))
        done = computed(Path(folder), [], "C")
        assert done.returncode == 0, done.stderr
        yield (Path(folder) / "out.csv").read_text()


def test_the_tier_is_found_said_and_served_on_the_operators_word_only(
    unlike: tuple[str, list[str]], home: Path, ours: str
) -> None:
    name, command = unlike
    agent_file(home)
    tier = TIER[name]
    asked = m.run(command, m.edgeswarm("doctor", "--explain", "--json"), HOME=str(home))
    assert asked.returncode == 0, asked.stderr
    said = json.loads(asked.stdout)
    assert (said["tier"], said["can_run"], said["starts"]) == (tier, True, tier == "A")
    assert said["degraded"] == (tier != "A")
    missing = {item["layer"] for item in said["explain"]}
    assert ("namespaces" in missing, "landlock" in missing) == (name != "no Landlock" and tier != "A", tier == "C")
    if "cgroups" in name:
        assert "cgroups" in missing

    refused = computed(home, command, "")
    if tier != "A":
        assert refused.returncode == REFUSED
        sentence = json.loads(refused.stderr.splitlines()[-1])["error"]["text"]
        assert f'min_tier = "{tier}" under [jails] in edgeswarm.toml' in sentence
        assert not (home / "out.csv").exists()
    served = computed(home, command, tier)
    assert served.returncode == 0, served.stderr
    assert json.loads(served.stdout)["tier"] == tier
    assert ("degraded" in served.stderr) == (tier != "A")
    assert (home / "out.csv").read_text() == ours, "the same numbers as on the whole machine"


IN_A_JAIL = """
import json, sys, tempfile
from pathlib import Path
import jail_kernels as k
from edgeswarm.drivers.jail_sync import SyncHost
with tempfile.TemporaryDirectory() as folder:
    with SyncHost(policy_dir=k.SANDBOX, cache_dir=Path(folder) / "cache", mac_key=k.MAC_KEY) as host:
        with host.spawn([k.moody_spec(host.compile(k.assemble(k.MOODY)))]) as jail:
            doubled = k.values(jail.call(0, k.row(k.ADD, 21)))[0]
            print(json.dumps([host.tier, doubled, jail.ready["performed"], jail.ready["absent"]]))
"""
LAYERS_OF = {
    "docker": ("B", {"DenyFiles"}),
    "no Landlock": ("C", {"Unshare", "ForkInit", "EmptyRoot", "Hostname"}),
    "docker before Landlock and mseal": ("C", set()),
    "docker with our calls added": ("A", {"Unshare", "ForkInit", "EmptyRoot", "Hostname", "DenyFiles"}),
}


@pytest.mark.parametrize("name", list(LAYERS_OF))
def test_a_jail_has_every_layer_that_its_machine_offers(name: str, here: doctor.Report) -> None:
    """Without Landlock alone the namespaces are kept; a step that is absent is one that the kernel does not know."""
    if here.tier != "A":
        pytest.skip(f"this machine is of tier {here.tier} itself")
    support = f"{m.ROOT}:{m.ROOT / 'tests' / 'support'}"
    done = m.run(machine(name), [sys.executable, "-c", IN_A_JAIL], PYTHONPATH=support)
    assert done.returncode == 0, done.stderr
    tier, doubled, performed, absent = json.loads(done.stdout)
    expected, layers = LAYERS_OF[name]
    assert (tier, doubled) == (expected, 42.0)
    assert {"Unshare", "ForkInit", "EmptyRoot", "Hostname", "DenyFiles"} & set(performed) == layers
    assert {"NoNewPrivileges", "DropCapabilities", "LoadFilter(1)", "LoadFilter(2)"} <= set(performed)
    assert ("SealText" in absent) >= (name == "docker before Landlock and mseal")


def test_a_policy_that_wants_more_is_refused_whatever_the_operator_says(home: Path) -> None:
    """tier_min of a policy of one's own is the policy's; min_tier of the device cannot undercut it."""
    pytest.importorskip("pyseccomp")
    agent_file(home)
    own = home / "state" / "sandbox.d"
    own.mkdir(parents=True)
    text = (m.ROOT / "sandbox/policies/strict.toml").read_text()
    text = text.replace('name = "strict"', 'name = "mine"').replace('tier_min = "C"', 'tier_min = "A"')
    (own / "mine.toml").write_text(text)
    key, _ = keys.load_or_make(home / "publisher.key")
    model = builder.model_of(None, sizes=(4, 3, 2), activation="relu", output_activation="linear")
    tree = header_tree("a", 4, 2, hidden=(3,), sandbox="mine")
    (home / "a.af").write_bytes(builder.build(tree, model, key=key))
    done = computed(home, m.without(m.DOCKER), "C")
    assert done.returncode == REFUSED
    assert "policy mine needs tier A or better, this machine offers B" in done.stderr


def test_without_seccomp_doctor_and_agents_end_with_the_same_code(home: Path) -> None:
    agent_file(home)
    command = m.without(m.NO_SECCOMP)
    asked = m.run(command, m.edgeswarm("doctor", "--explain", "--json"), HOME=str(home))
    said = json.loads(asked.stdout)
    assert (asked.returncode, said["tier"], said["can_run"], said["starts"]) == (REFUSED, "D", False, False)
    assert said["explain"][0]["layer"] == "seccomp"
    for word in ("", "C"):
        done = computed(home, command, word)
        assert done.returncode == REFUSED
        assert "nothing can be jailed; tier D" in done.stderr
    no_d = computed(home, command, "D")
    assert no_d.returncode == ConfigError.exit_code, "there is no word for no jail at all"


def test_a_container_serves_agents_once_one_setting_is_changed(home: Path) -> None:
    """run: refused with one sentence; the setting in edgeswarm.toml; run, deploy, ask, status, stop."""
    path, state = agent_file(home), home / "s"
    command = m.without(m.DOCKER)
    quiet = {"HOME": str(home)}
    refused = m.run(command, m.edgeswarm("run", "--state", state), **quiet)
    assert refused.returncode == REFUSED
    assert 'min_tier = "B" under [jails] in edgeswarm.toml' in refused.stderr
    settings = home / "edgeswarm.toml"
    settings.write_text('[jails]\nmin_tier = "B"\n')
    key, _ = keys.load_or_make(home / "publisher.key")
    keys.trust(state / "trust.d", key.public, "test")
    environ = {name: text for name, text in os.environ.items() if not name.startswith("EDGESWARM_")} | quiet
    supervisor = subprocess.Popen(
        [*command, *m.edgeswarm("run", "--state", state, "--config", settings)],
        cwd=m.ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        with connected(state) as client:
            client.call("deploy", files=[{"who": str(path), "data": path.read_bytes()}])
            status = client.call("status")
            assert status["tier"] == "B"
            assert status["degraded"].startswith("no namespaces (unshare(")
            assert [row["status"] for row in status["agents"]] == ["running"]
        told = m.run([], m.edgeswarm("status", "--state", state), **quiet)
        assert "tier B DEGRADED: no namespaces" in told.stdout
    finally:
        supervisor.send_signal(signal.SIGTERM)
        _, log = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 0
    assert b"isolation_degraded" in log


def connected(state: Path) -> ControlClient:
    deadline = time.monotonic() + 60
    while True:
        try:
            return ControlClient(next((state / "run").glob("*.sock"), state / "run" / "none.sock"))
        except NotRunningError:
            assert time.monotonic() < deadline, "the supervisor did not come up"
            time.sleep(0.05)


AS_IT_IS = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
ORDINARY = ("an ordinary user", "an ordinary user in docker")


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_user_gets_the_same_answers(name: str, home: Path, here: doctor.Report) -> None:
    """As nobody, when these tests run as root: doctor's answer and a jail that serves."""
    if os.geteuid() != 0:
        pytest.skip("the other tests are this one")
    if here.tier != "A":
        pytest.skip(f"this machine is of tier {here.tier} itself")
    agent_file(home)
    (home / "publisher.key").chmod(0o644)
    home.chmod(0o777)
    python = next((one for one in interpreters() if nobody([one, "-c", "import click, wasmtime"], home)[0] == 0), None)
    if python is None:
        pytest.skip("nobody may run none of the interpreters here")
    loader = m.without(m.DOCKER)[1:] if "docker" in name else ["-c", AS_IT_IS]
    tier = "B" if "docker" in name else "A"
    code, out, err = nobody([python, *loader, python, "-m", "edgeswarm", "doctor", "--json"], home)
    assert (code, json.loads(out)["tier"]) == (0, tier), err
    files = [str(home / "a.af"), "-i", str(home / "rows.csv"), "-o", str(home / "out.csv"), "--json"]
    run = [python, *loader, python, "-m", "edgeswarm", "agent", "run", *files]
    code, out, err = nobody(run, home, EDGESWARM_JAILS__MIN_TIER=tier)
    assert (code, err.count("rror")) == (0, 0), err
    assert json.loads(out)["tier"] == tier


def interpreters() -> list[str]:
    return [sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"]


def nobody(command: list[str], home: Path, **environ: str) -> tuple[int, str, str]:
    path = ":".join((str(m.ROOT), *(item for item in sys.path if "site-packages" in item)))
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": path}
    try:
        done = subprocess.run(
            command, user=65534, group=65534, extra_groups=[], cwd="/", env={**surroundings, **environ},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    except PermissionError:
        return errno.EACCES, "", ""
    return done.returncode, done.stdout, done.stderr
