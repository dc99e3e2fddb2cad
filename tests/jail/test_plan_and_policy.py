"""Plans, policies, filters and their manifest: pure, and every shipped file."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import itertools
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jail_kernels as k
import pytest
from bpf_run import ALLOW, AUDIT, ERRNO, KILL, run_filter
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.drivers import jail_filter
from edgeswarm.drivers.jail_policy import ARCHES, load_policies, read_policy_file
from edgeswarm.errors import ConfigError, JailError, TierError
from edgeswarm.jail import plan, policy

POLICIES = load_policies(k.SANDBOX) if platform.machine() in ARCHES else {}
NAMES = sorted(path.stem for path in (k.SANDBOX / "policies").glob("*.toml"))


def build_filters() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_filters", k.SANDBOX / "build_filters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_filters"] = module
    spec.loader.exec_module(module)
    return module


# --- plans ----------------------------------------------------------------------------------------------------------

ALL_PLANS = [
    (name, tier, run_as) for name, tier, run_as in itertools.product(NAMES, ("A", "B", "C"), (None, (300_000, 300_000)))
]


@pytest.mark.parametrize(("name", "tier", "run_as"), ALL_PLANS)
def test_every_plan_keeps_the_order(name: str, tier: Any, run_as: tuple[int, int] | None) -> None:
    if tier > POLICIES[name].tier_min:
        with pytest.raises(TierError):
            plan.make_plan(POLICIES[name], tier, run_as=run_as, memory_bytes=1 << 20)
        return
    steps = plan.make_plan(POLICIES[name], tier, run_as=run_as, memory_bytes=1 << 20)
    names = [plan.name_of(step) for step in steps]

    def at(step: str) -> int:
        return names.index(step)

    assert names[-3:] == ["LoadFilter(2)", "SelfTest", "Begin"]
    assert names.count("SelfTest") == 2
    assert at("CloseDescriptors") < at("Limit(DATA)") < at("DropCapabilities") < at("NoNewPrivileges")
    assert at("NoNewPrivileges") < at("LoadFilter(1)") < at("Load") < at("SelfTest") < at("LoadFilter(2)")
    assert ("DenyFiles" in names) == (tier in ("A", "B"))
    assert ("BecomeUser" in names) == (run_as is not None)
    for step in ("Unshare", "ForkInit", "EmptyRoot", "Hostname"):
        assert (step in names) == (tier == "A")
    if tier == "A":
        assert at("Unshare") < at("ForkInit") < at("EmptyRoot") < at("CloseDescriptors")
        assert set(next(s for s in steps if isinstance(s, plan.Unshare)).namespaces) == {
            *("user", "pid", "mount", "net", "ipc", "uts", "cgroup")
        }
    if tier != "C":
        assert at("NoNewPrivileges") < at("DenyFiles") < at("LoadFilter(1)")
    if run_as is not None:
        assert at("BecomeUser") == 0


def test_a_machine_without_landlock_alone_keeps_its_namespaces() -> None:
    """It is of tier C, but a layer that is there is used; one that was left out on purpose stays out."""
    strict = POLICIES["strict"]
    best = [plan.name_of(step) for step in plan.make_plan(strict, "A", run_as=None, memory_bytes=0)]
    c = plan.make_plan(strict, "C", run_as=None, memory_bytes=0, namespaces_too=True)
    assert [plan.name_of(step) for step in c] == [name for name in best if name != "DenyFiles"]
    b = plan.make_plan(strict, "B", run_as=None, memory_bytes=0, namespaces_too=True)
    assert "Unshare" not in [plan.name_of(step) for step in b]


def test_the_memory_limit_is_the_policys_plus_the_agents() -> None:
    steps = plan.make_plan(POLICIES["strict"], "C", run_as=None, memory_bytes=12345)
    assert plan.Limit("DATA", POLICIES["strict"].data_bytes + 12345) in steps


def test_a_weaker_tier_than_the_policy_needs_is_refused() -> None:
    demanding = dataclasses.replace(POLICIES["strict"], tier_min="A")
    with pytest.raises(TierError, match="needs tier A or better, this machine offers B"):
        plan.make_plan(demanding, "B", run_as=None, memory_bytes=0)
    with pytest.raises(TierError):
        plan.make_plan(POLICIES["strict"], "D", run_as=None, memory_bytes=0)


# --- policies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_policy_goes_to_the_jail_and_back(name: str) -> None:
    tree = json.loads(json.dumps(policy.to_json(POLICIES[name])))
    assert policy.from_json(tree) == POLICIES[name]
    assert POLICIES[name].digest() == policy.from_json(tree).digest()
    changed = dataclasses.replace(POLICIES[name], data_bytes=1)
    assert changed.digest() != POLICIES[name].digest()


@pytest.mark.parametrize(
    "damage", [lambda t: t.pop("stage_2"), lambda t: t.update(tier_min="D"), lambda t: t.update(limits=[["CORE"]]),
               lambda t: t["stage_1"].update(program="!")]
)  # fmt: skip
def test_a_damaged_policy_is_refused_by_the_jail(damage: Any) -> None:
    tree = policy.to_json(POLICIES["strict"])
    damage(tree)
    with pytest.raises(JailError, match="sandbox policy"):
        policy.from_json(tree)


def test_a_filter_with_another_hash_is_not_loaded() -> None:
    item = POLICIES["strict"].stage_2
    assert item.checked() == item.program
    with pytest.raises(JailError, match="expected sha256"):
        dataclasses.replace(item, program=item.program[:-8] + b"\x06\0\0\0\0\0\xff\x7f").checked()


def copy_of(tmp_path: Path) -> Path:
    for part in ("policies", "bpf"):
        (tmp_path / part).mkdir()
        for path in (k.SANDBOX / part).iterdir():
            (tmp_path / part / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('name = "strict"', 'name = "other"', "expected 'strict' as the file is called"),
        ("landlock = true", "landlok = true", "landlok"),
        ('tier_min = "C"', 'tier_min = "D"', "tier_min"),
        ('read = { reason = "wait for frames" }', 'read = { reason = "" }', "reason"),
        ('read = { reason = "wait for frames" }', 'reboot = { reason = "no idea at all" }', "stage 1 stays in force"),
        ("[stage_2.refuse]", '[stage_2.refuse]\nread = { errno = "EPERM", reason = "both at once" }', "more than one"),
        ("NPROC = 0", "PROCESSES = 0", "expected one of CORE"),
        ("[stage_2.only]", '[stage_2.only]\nkill = { argument = 0, values = [0], reason = "of itself" }', "narrows a"),
        ("argument = 0, values = [0, 1]", "argument = 6, values = [0, 1]", "argument"),
        ('namespaces = ["user", ', "namespaces = [", "the others need `user`"),
        ("data_mb = 64", "data_mb = 1", "data_mb"),
        ("name =", "name ==", "strict.toml"),
    ],
)
def test_a_policy_with_a_fault_is_refused_by_name(tmp_path: Path, old: str, new: str, text: str) -> None:
    path = copy_of(tmp_path) / "policies" / "strict.toml"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    with pytest.raises(ConfigError, match=text):
        read_policy_file(path)


def test_a_policy_edited_after_its_filters_were_made_is_refused(tmp_path: Path) -> None:
    path = copy_of(tmp_path) / "policies" / "strict.toml"
    path.write_text(path.read_text() + "\n# a comment\n")
    with pytest.raises(ConfigError, match="run `make seccomp`"):
        load_policies(tmp_path)


def test_a_filter_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    path = copy_of(tmp_path) / "bpf" / f"strict-2-{platform.machine()}.bpf"
    path.write_bytes(path.read_bytes()[:-8] + b"\x06\0\0\0\0\0\xff\x7f")
    with pytest.raises(ConfigError, match="expected sha256"):
        load_policies(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        load_policies(tmp_path)


def test_a_folder_without_policies_or_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no policy found"):
        load_policies(tmp_path)
    copy_of(tmp_path)
    (tmp_path / "bpf" / "manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match="table of policies"):
        load_policies(tmp_path)
    (tmp_path / "bpf" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="manifest.json"):
        load_policies(tmp_path)


# --- filters --------------------------------------------------------------------------------------------------------


def libseccomp() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"pyseccomp or libseccomp is missing: {error}")
    return pyseccomp


def test_the_committed_filters_are_those_of_the_policies() -> None:
    libseccomp()
    module = build_filters()
    files = module.build(k.SANDBOX, module.resolve_by_libseccomp)
    committed = {path.name: path.read_bytes() for path in (k.SANDBOX / "bpf").iterdir()}
    assert committed.keys() == files.keys()
    for name, content in files.items():
        assert committed[name] == content, f"{name}: run `make seccomp`"


def test_the_script_checks_without_writing(tmp_path: Path) -> None:
    libseccomp()
    copy_of(tmp_path)
    command = [sys.executable, str(k.SANDBOX / "build_filters.py"), "--folder", str(tmp_path)]
    environment = {"PYTHONPATH": ":".join([str(k.ROOT), *sys.path])}
    assert subprocess.run([*command, "--check"], env=environment, capture_output=True, check=False).returncode == 0
    (tmp_path / "bpf" / "strict-1-x86_64.bpf").write_bytes(b"")
    (tmp_path / "bpf" / "old.bpf").write_bytes(b"")
    assert subprocess.run([*command, "--check"], env=environment, capture_output=True, check=False).returncode == 1
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert subprocess.run([*command, "--check"], env=environment, capture_output=True, check=False).returncode == 0


def test_a_name_without_a_number_is_an_error_not_a_gap() -> None:
    module = build_filters()
    stage = read_policy_file(k.SANDBOX / "policies" / "strict.toml").stage_2
    with pytest.raises(module.BuildError, match="read has no number on aarch64"):
        list(module.rules_of("strict", stage, "aarch64", lambda _arch, name: -1 if name == "read" else 1))


def test_a_number_that_contradicts_libseccomp_is_an_error() -> None:
    module = build_filters()
    stage = read_policy_file(k.SANDBOX / "policies" / "strict.toml").stage_1
    with pytest.raises(module.BuildError, match="mseal is 7"):
        list(module.rules_of("strict", stage, "x86_64", lambda *_: 7))


def own_policy(folder: Path, old: str = "", new: str = "") -> Path:
    """strict under another name, with one change."""
    folder.mkdir(exist_ok=True)
    text = (k.SANDBOX / "policies" / "strict.toml").read_text().replace('name = "strict"', 'name = "mine"')
    assert old in text
    path = folder / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_an_operators_own_policy_is_compiled_here(tmp_path: Path) -> None:
    libseccomp()
    own_policy(tmp_path / "own", 'tier_min = "C"', 'tier_min = "A"')
    found = load_policies(k.SANDBOX, own=tmp_path / "own")
    assert found.keys() == POLICIES.keys() | {"mine"}
    assert found["mine"].stage_2 == POLICIES["strict"].stage_2
    assert found["mine"].tier_min == "A"
    (tmp_path / "own" / "mine.toml").rename(tmp_path / "own" / "strict.toml")
    text = (tmp_path / "own" / "strict.toml").read_text()
    (tmp_path / "own" / "strict.toml").write_text(text.replace('name = "mine"', 'name = "strict"'))
    with pytest.raises(ConfigError, match="is the name of a shipped policy"):
        load_policies(k.SANDBOX, own=tmp_path / "own")
    assert load_policies(k.SANDBOX, own=tmp_path / "absent") == POLICIES


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('tier_min = "C"', 'tier_min = "E"', r":5: tier_min: .*found 'E'|line 5"),
        ("brk = {", "socket = {", "stage_2.allow.socket|stage 1 stays in force"),
        ('write = { reason = "tell how', 'wrote = { reason = "tell how', "stage_2.allow.wrote"),
    ],
)
def test_a_fault_of_an_own_policy_is_told_with_its_line_and_field(
    tmp_path: Path, old: str, new: str, text: str
) -> None:
    path = own_policy(tmp_path / "own")
    whole, _, tail = path.read_text().rpartition(old)
    path.write_text(whole + new + tail)
    line = whole.count("\n") + 1
    with pytest.raises(ConfigError, match=text) as caught:
        read_policy_file(path)
    assert str(line) in str(caught.value)


@pytest.mark.parametrize("machine", ["riscv64"])
def test_a_filter_for_an_architecture_without_a_committed_one_is_made_here(machine: str) -> None:
    seccomp = libseccomp()
    policies = load_policies(k.SANDBOX, machine=machine)
    assert policies.keys() == POLICIES.keys()
    read = int(seccomp.resolve_syscall(seccomp.Arch.RISCV64, "read"))
    program = policies["strict"].stage_2.checked()
    assert run_filter(program, arch=jail_filter.AUDIT_ARCH[machine], number=read) == ALLOW
    assert run_filter(program, arch=jail_filter.AUDIT_ARCH[machine], number=read + 1000) == KILL
    assert run_filter(program, arch=AUDIT["aarch64"], number=read) == KILL


@pytest.mark.parametrize(
    ("machine", "resolve", "text"),
    [
        ("s390x", None, "none can be made; filters can be made for x86_64"),
        ("armv7l", None, "mmap has no number on armv7l; no filter can be made for it"),
        ("riscv64", ImportError("No module named 'pyseccomp'"), "pyseccomp and libseccomp, which are missing"),
        ("riscv64", RuntimeError("Unable to find libseccomp"), "pip install 'edgeswarm"),
    ],
)
def test_where_no_filter_can_be_made_it_is_said_why(machine: str, resolve: Any, text: str) -> None:
    if resolve is None:
        libseccomp()
        ask = jail_filter.resolve_by_libseccomp
    else:

        def ask(_arch: str, _name: str) -> int:
            raise resolve

    file = read_policy_file(k.SANDBOX / "policies" / "strict.toml")
    with pytest.raises((TierError, ConfigError), match=text):
        jail_filter.filters_here(file, machine, ask)


@pytest.mark.parametrize(("name", "stage", "arch"), list(itertools.product(NAMES, (1, 2), ARCHES)))
def test_a_filter_answers_as_its_policy_says_for_every_number(name: str, stage: int, arch: Any) -> None:
    seccomp = libseccomp()
    token = {"x86_64": seccomp.Arch.X86_64, "aarch64": seccomp.Arch.AARCH64}[arch]
    file = read_policy_file(k.SANDBOX / "policies" / f"{name}.toml")
    rules = file.stage_1 if stage == 1 else file.stage_2
    program = (k.SANDBOX / "bpf" / f"{name}-{stage}-{arch}.bpf").read_bytes()

    def number(call: str, given: int | None) -> int:
        return given if given is not None else int(seccomp.resolve_syscall(token, call))

    expected = {number(call, item.number): ALLOW for call, item in rules.allow.items() if arch in item.arch}
    expected |= {
        int(seccomp.resolve_syscall(token, call)): ERRNO | getattr(errno, item.errno)
        for call, item in rules.refuse.items()
        if arch in item.arch
    }
    without_exec = {number(c, i.number) for c, i in rules.allow_without_exec.items() if arch in i.arch}
    narrowed = {number(call, None): only for call, only in rules.only.items()}
    assert min(expected) >= 0
    for call in range(1024):
        for rights in (0, 1, 3, 4, 5, 7, 0xFFFF_FFFF_FFFF_FFFB):
            few = [0, 0, rights, 0, 0, 0]
            if (only := narrowed.get(call)) is not None and only.argument != 2:
                few[only.argument] = only.values[-1]
            elif only is not None:
                expected[call] = ALLOW if rights in only.values else ERRNO | errno.EPERM
            answer = run_filter(program, arch=AUDIT[arch], number=call, arguments=tuple(few))
            if call in without_exec:
                assert answer == (ERRNO | errno.EACCES if rights & 4 else ALLOW)
            else:
                assert answer == expected.get(call, KILL), call


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_no_filter_allows_anything_of_another_architecture_or_another_numbering(arch: int, number: int) -> None:
    for path in (k.SANDBOX / "bpf").glob("*.bpf"):
        own = AUDIT["x86_64" if "x86_64" in path.name else "aarch64"]
        program = path.read_bytes()
        if arch != own:
            assert run_filter(program, arch=arch, number=number) == KILL
        assert run_filter(program, arch=own, number=number | 0x4000_0000) == KILL


def test_stage_2_is_small() -> None:
    """The run-time list: what the design promises, and nothing that could open, connect, run or inspect anything."""
    file = read_policy_file(k.SANDBOX / "policies" / "strict.toml")
    names = set(file.stage_2.allow) | set(file.stage_2.allow_without_exec)
    assert names == {
        *("read", "write", "futex", "mmap", "mprotect", "munmap", "madvise", "brk", "rt_sigreturn"),
        *("poll", "ppoll", "exit_group", "clock_gettime", "restart_syscall", "sched_yield"),
    }
    assert set(file.stage_2.allow_without_exec) == {"mmap", "mprotect"}


def test_what_drivers_need_beyond_strict_is_known() -> None:
    """A pool of threads that is there already, on the CPU; descriptors and commands to the driver, on a GPU."""
    strict, delegate, gpu = (
        read_policy_file(k.SANDBOX / "policies" / f"{name}.toml").stage_2 for name in ("strict", "delegate", "gpu")
    )
    assert delegate.allow.keys() - strict.allow.keys() == {
        *("exit", "rt_sigprocmask", "set_robust_list", "rseq", "getcpu", "sched_getaffinity")
    }
    assert gpu.allow.keys() - strict.allow.keys() == {
        *("exit", "rt_sigprocmask", "set_robust_list", "rseq", "sched_getaffinity", "getuid", "gettid"),
        *("ioctl", "close", "dup", "fcntl", "fstat", "lseek", "eventfd2", "memfd_create", "ftruncate", "mincore"),
    }
    for stage in (delegate, gpu):
        assert stage.allow_without_exec.keys() == strict.allow_without_exec.keys()
        assert strict.allow.keys() <= stage.allow.keys()


# --- the page ---------------------------------------------------------------------------------------------------


def test_the_page_lists_the_steps_in_the_order_of_the_plan() -> None:
    page = (k.SANDBOX / "README.md").read_text()
    listed = re.findall(r"^\| \d+ \| ([A-Z]\w+(?:\(\d\))?) \|", page, re.MULTILINE)
    steps = plan.make_plan(POLICIES["strict"], "A", run_as=(300_000, 300_000), memory_bytes=0, doors=("x",))
    names = [re.sub(r"^Limit\(.*", "Limit", plan.name_of(step)) for step in steps]
    assert [name for name, _ in itertools.groupby(names)] == listed


def test_every_test_that_the_page_names_exists() -> None:
    page = (k.SANDBOX / "README.md").read_text()
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 10
    for name in named:
        assert f"def {name}(" in tests, name
    for name in re.findall(r"`(test_\w+\.py)`", page):
        assert (Path(__file__).parent / name).is_file()


def test_a_driver_is_made_ready_before_the_root_is_emptied_and_on_tier_a_only() -> None:
    chosen = POLICIES["gpu"]
    steps = [plan.name_of(step) for step in plan.make_plan(chosen, "A", run_as=None, memory_bytes=0, prepares=True)]
    at = steps.index("Prepare")
    assert steps[at - 1 : at + 2] == ["NullStdio", "Prepare", "EmptyRoot"]
    assert "Prepare" not in [plan.name_of(step) for step in plan.make_plan(chosen, "A", run_as=None, memory_bytes=0)]
    tiers: tuple[policy.Tier, ...] = ("B", "C")
    for tier in tiers:
        with pytest.raises(TierError):
            plan.make_plan(dataclasses.replace(chosen, tier_min="C"), tier, run_as=None, memory_bytes=0, prepares=True)
