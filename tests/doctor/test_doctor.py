"""Doctor on this machine as it is, and on this machine with one layer taken away for real at a time.

A layer is taken away by a seccomp filter that refuses its system call to the process that runs `examine`, or by a
user namespace in which no further one fits: nothing is mocked, and both work as root and as an ordinary user.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from delegated import FAKE
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.drivers import doctor
from edgeswarm.drivers.doctor import advice
from edgeswarm.jail import kernel
from edgeswarm.jail.zygote import user_of

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="no filters for this machine")

UNSHARE = {"x86_64": 272, "aarch64": 97}
LANDLOCK, MSEAL = 444, 462
ENTER = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--keep-caps"]

WITHOUT = """
import errno, json, struct, sys
from dataclasses import asdict
from edgeswarm.drivers import doctor
from edgeswarm.jail import kernel
program = struct.pack("=HBBI", 0x20, 0, 0, 0)
for number, answer in json.loads(sys.argv[1]):
    program += struct.pack("=HBBI", 0x15, 0, 1, number) + struct.pack("=HBBI", 0x06, 0, 0, 0x50000 | answer)
program += struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
kernel.set_no_new_privs()
kernel.seccomp_load(program)
report = doctor.examine()
print(json.dumps(asdict(report) | {"can_run": report.can_run, "text": doctor.text(report)}))
"""


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def examine_without(*calls: tuple[int, int]) -> dict[str, Any]:
    """The report of a process to which these system calls answer these errnos."""
    return run([sys.executable, "-c", WITHOUT, json.dumps(calls)])


@pytest.fixture(scope="module")
def report() -> doctor.Report:
    return doctor.examine()


def test_every_area_is_there_and_json_able(report: doctor.Report) -> None:
    tree = json.loads(json.dumps(asdict(report)))
    assert tree["tier"] in "ABCD"
    assert {"namespaces", "landlock", "seccomp", "seccomp_filters", "seal_text"} <= set(tree["layers"])
    assert {f"namespace_{name}" for name in kernel.NAMESPACE_FLAGS} <= set(tree["layers"])
    assert {"litert", "tflite", "gpu", "npu", "gpu_nodes", "vulkan", "cuda"} == set(tree["delegates"])
    assert {"kernel", "sysctl", "user", "service", "apparmor", "journal"} <= set(tree["firmware"])
    assert tree["machine"]["arch"] == os.uname().machine


def test_whatever_is_missing_has_an_advice(report: doctor.Report) -> None:
    for area in (report.layers, report.cgroups, report.delegates, report.firmware, {"wasmtime": report.wasmtime}):
        for name, check in area.items():
            assert check.detail, name
            assert check.ok == (check.state in ("ok", "not_here")), name
            assert bool(check.advice) == (check.state == "missing"), name


def test_the_machine_that_runs_these_tests_can_run_agents(report: doctor.Report) -> None:
    assert report.can_run, doctor.text(report)
    assert report.layers["seccomp_filters"].ok
    assert report.wasmtime.ok


def test_the_single_namespaces_agree_with_all_of_them_together(report: doctor.Report) -> None:
    single = all(check.ok for name, check in report.layers.items() if name.startswith("namespace_"))
    assert single or not report.layers["namespaces"].ok


def test_nothing_is_left_behind(report: doctor.Report) -> None:
    names = {name for _, folders, _ in os.walk("/sys/fs/cgroup") for name in folders}  # others come and go meanwhile
    assert f"edgeswarm-doctor-{os.getpid()}" not in names


def test_the_text_shows_every_check_and_every_advice(report: doctor.Report) -> None:
    text = doctor.text(report)
    assert f"tier {report.tier}: " in text
    for area in (report.layers, report.cgroups, report.delegates, report.firmware):
        for name, check in area.items():
            assert f" {name} " in text
            assert check.detail in text
            assert check.advice in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_without_unshare_the_tier_is_b() -> None:
    found = examine_without((UNSHARE[os.uname().machine], errno.EPERM))
    assert found["tier"] == "B"
    assert found["can_run"]
    assert not any(found["layers"][f"namespace_{name}"]["ok"] for name in kernel.NAMESPACE_FLAGS)
    assert "Operation not permitted" in found["layers"]["namespaces"]["detail"]
    assert "container" in found["layers"]["namespaces"]["advice"]
    assert "tier B: Landlock and seccomp, no namespaces" in found["text"]


def test_without_landlock_too_the_tier_is_c() -> None:
    found = examine_without((UNSHARE[os.uname().machine], errno.EPERM), (LANDLOCK, errno.ENOSYS))
    assert (found["tier"], found["can_run"]) == ("C", True)
    assert found["layers"]["seccomp_filters"]["ok"]


def test_without_seccomp_nothing_runs() -> None:
    found = examine_without((kernel.arch().seccomp, errno.ENOSYS))
    assert (found["tier"], found["can_run"]) == ("D", False)
    assert "CONFIG_SECCOMP_FILTER" in found["layers"]["seccomp"]["advice"]
    assert not found["layers"]["seccomp_filters"]["ok"]


def test_a_kernel_without_mseal_keeps_its_tier() -> None:
    found = examine_without((MSEAL, errno.ENOSYS))
    assert not found["layers"]["seal_text"]["ok"]
    assert "Jails do without it." in found["layers"]["seal_text"]["advice"]
    assert found["tier"] in "AB"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare(1) here")
def test_where_no_user_namespace_fits_the_tier_is_b(report: doctor.Report) -> None:
    """The limit belongs to a namespace, so one of our own can have it at zero without touching the machine's."""
    if not report.layers["namespaces"].ok:
        pytest.skip("no user namespaces here to begin with")
    code = WITHOUT.replace("kernel.seccomp_load(program)\n", "")
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" -c "$1" "[]"'
    found = run([*ENTER, "sh", "-c", script, sys.executable, code])
    assert found["tier"] == "B"
    assert "No space left" in found["layers"]["namespaces"]["detail"]
    assert "ask them" in found["layers"]["namespaces"]["advice"]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare(1) here")
def test_root_without_another_user_is_told_so(report: doctor.Report) -> None:
    """Root in a user namespace that maps root alone cannot give its rights up; one advice says so."""
    if not report.layers["namespaces"].ok:
        pytest.skip("no user namespaces here to begin with")
    code = WITHOUT.replace("kernel.seccomp_load(program)\n", "")
    found = run(["unshare", "--user", "--map-root-user", sys.executable, "-c", code, "[]"])
    assert (found["tier"], found["can_run"]) == ("D", False)
    assert "Run the supervisor as an ordinary user" in found["layers"]["jail_user"]["advice"]
    assert found["layers"]["seccomp"]["advice"] == "Could not be tried: see jail_user."


async def test_two_at_once_from_a_program_with_threads() -> None:
    first, second = await asyncio.gather(asyncio.to_thread(doctor.examine), asyncio.to_thread(doctor.examine))
    assert (first.tier, set(first.layers)) == (second.tier, set(second.layers))


@pytest.mark.parametrize("python", ["/bin/false", "/bin/true", "/nowhere/python3"])
def test_a_probe_that_gives_no_answer_is_tier_d(python: str) -> None:
    found = doctor.examine(python=python)
    assert (found.tier, found.can_run) == ("D", False)
    assert "the probe" in found.layers["seccomp"].detail
    assert "tier D" in doctor.text(found)


TRIALS = """
import json, os, signal, time
from edgeswarm.drivers.doctor.child import Trial, try_all
def hangs(): time.sleep(60)
def hangs_with_child():
    if os.fork() == 0: time.sleep(60)
    time.sleep(60)
def says_much(): return "x" * 1_000_000
def crashes(): os.kill(os.getpid(), signal.SIGSEGV)
def leaves(): os._exit(7)
def refuses(): raise PermissionError(13, "Permission denied", "/dev/x")
def prints(): os.write(1, b"noise"); os.write(2, b"noise"); return "quiet"
def fails(): raise ValueError("wrong")
names = [hangs, hangs_with_child, says_much, crashes, leaves, refuses, prints, fails]
found = try_all({f.__name__: Trial(f) for f in names}, seconds_max=1.0)
try: left = os.waitpid(-1, os.WNOHANG)
except ChildProcessError: left = None
print(json.dumps({name: [o.ok, o.detail[:60], o.number] for name, o in found.items()} | {"left": left}))
"""


def test_whatever_a_trial_does_becomes_an_outcome() -> None:
    found = run([sys.executable, "-c", TRIALS])
    assert found == {
        "hangs": [False, "took too long", 0],
        "hangs_with_child": [False, "took too long", 0],
        "says_much": [True, "x" * 60, 0],
        "crashes": [False, "died of SIGSEGV", 0],
        "leaves": [False, "ended with 7", 0],
        "refuses": [False, "/dev/x: Permission denied", 13],
        "prints": [True, "quiet", 0],
        "fails": [False, "wrong", 0],
        "left": None,
    }


# --- advice -----------------------------------------------------------------------------------------------------------

WEAKENING = (
    "sysctl -w",
    "userns_clone=1",
    "userns=0",
    "=unconfined",
    "--privileged",
    "setenforce",
    "disable",
    "turn off",
    "chmod 777",
    "as root instead",
    "seccomp=0",
)


def facts(**changes: Any) -> advice.Facts:
    base: dict[str, Any] = {
        "arch": "x86_64",
        "kernel": (6, 18),
        "is_root": False,
        "filtered": False,
        "chrooted": False,
        "sysctls": {},
    }
    return advice.Facts(**base | changes)


ALL_LAYERS = [
    "namespaces", "namespace_user", "namespace_net", "landlock", "seccomp", "seccomp_filters", "refuse_exec_gain",
    "seal_text", "capabilities", "data_limit", "memfd_sealed", "pidfd", "peer_credentials",
]  # fmt: skip
some_facts = st.builds(
    advice.Facts,
    arch=st.sampled_from(["x86_64", "aarch64", "armv7l", "riscv64"]),
    kernel=st.sampled_from([(5, 4), (5, 15), (6, 1), (6, 12), (6, 18)]),
    is_root=st.booleans(),
    filtered=st.booleans(),
    chrooted=st.booleans(),
    sysctls=st.dictionaries(
        st.sampled_from(doctor.SYSCTLS),
        st.sampled_from(["0", "1", "15000"]),
    ),
)
APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
some_errno = st.sampled_from([0, *sorted(errno.errorcode)])


@settings(max_examples=200)
@given(st.sampled_from(ALL_LAYERS), some_errno, some_facts)
def test_every_refusal_has_an_advice_and_none_weakens_the_machine(name: str, number: int, known: advice.Facts) -> None:
    detail = os.strerror(number)
    for has_v1 in (True, False):
        texts = [
            advice.for_layer(name, number, detail, known),
            advice.for_cgroup("v2", number, known, has_v1=has_v1),
            advice.for_cgroup("v1_memory", number, known, has_v1=has_v1),
            advice.for_wasmtime(detail, known),
            *(advice.for_delegate(delegate, detail) for delegate in ("litert", "tflite", "gpu_nodes", "cuda")),
        ]
        for text in texts:
            assert text.strip()
            assert not [word for word in WEAKENING if word in text.lower()], text


@pytest.mark.parametrize(
    ("known", "number", "expected"),
    [
        (facts(sysctls={APPARMOR: "1"}), errno.EPERM, "Leave the sysctl as it is"),
        (facts(sysctls={APPARMOR: "1"}), errno.EACCES, "aa-exec -p edgeswarm"),
        (facts(sysctls={"kernel.unprivileged_userns_clone": "0"}), errno.EPERM, "ask them"),
        (facts(sysctls={"user.max_user_namespaces": "0"}), errno.ENOSPC, "ask them"),
        (facts(chrooted=True), errno.EPERM, "pivot_root"),
        (facts(filtered=True), errno.EPERM, "container"),
        (facts(), errno.EINVAL, "edgeswarm.config"),
    ],
)
def test_the_advice_fits_what_closed_the_namespaces(known: advice.Facts, number: int, expected: str) -> None:
    assert expected in advice.for_layer("namespaces", number, os.strerror(number), known)


@pytest.mark.parametrize("arch", ["armv7l", "riscv64"])
def test_the_empty_wheel_is_named_where_it_is_installed(arch: str) -> None:
    text = advice.for_wasmtime("wasmtime has no library for linux", facts(arch=arch))
    assert "Windows library only" in text
    assert arch in text


def test_landlock_that_is_built_but_off_gets_its_own_advice() -> None:
    text = advice.for_layer("landlock", errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), facts())
    assert "lsm=" in text


def test_jails_of_root_are_tried_as_the_user_they_run_as(report: doctor.Report) -> None:
    """After root was given up, capabilities to drop can only come from a user namespace."""
    if user_of(0) is None or not report.layers["namespaces"].ok:
        pytest.skip("not root, or no user namespaces")
    assert "in a user namespace" in report.layers["capabilities"].detail


def test_a_delegate_counts_when_it_has_run_the_test_model_in_a_jail() -> None:
    """The fake runtime of the tests: doctor sees nothing but what comes out of the jail."""
    found = doctor.examine(wanted=doctor.Wanted(packages=str(FAKE))).delegates
    assert found["litert"].ok, found["litert"].detail
    assert re.search(
        r"ai-edge-litert 99\.0: test model right, [0-9.]+ us a call, .* tier [ABC]", found["litert"].detail
    )
    assert not found["tflite"].ok and f"not installed in {FAKE}" in found["tflite"].detail


def test_a_delegate_that_answers_wrongly_does_not_count(tmp_path: Path) -> None:
    lying = tmp_path / "packages"
    shutil.copytree(FAKE, lying)
    module = lying / "ai_edge_litert" / "interpreter.py"
    module.write_text(module.read_text().replace('"bias": [0.5, -0.5]}', '"bias": [0.5, 7.5]}'))
    check = doctor.examine(wanted=doctor.Wanted(packages=str(lying))).delegates["litert"]
    assert not check.ok and "expected (10.5, -2.5), found (10.5, 5.5)" in check.detail and check.advice


def test_a_delegate_library_that_is_none_is_told_with_its_path(tmp_path: Path) -> None:
    library = tmp_path / "notes.so"
    library.write_text("this is no library")
    check = doctor.examine(wanted=doctor.Wanted(str(FAKE), str(library))).delegates["external"]
    assert not check.ok and str(library) in check.detail and check.advice
