"""The bundle's install.sh, unpack.py and launcher, on a bundle of a few kilobytes; the real one is `make soak`'s."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import fake_bundle
import pytest
from fake_bundle import PYTHON, ROOT, install, launch, make, said, seal
from processes import NOBODY

from edgeswarm.drivers.service.prefix import Prefix

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
SCRIPTS = (".ci/bundle", ".ci/bundle.d/install.sh")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "edgeswarm"


# --- installing -------------------------------------------------------------------------------------------------------


def test_it_installs_in_an_empty_environment_and_runs_isolated(tmp_path: Path, prefix: Path) -> None:
    done = install(make(tmp_path), prefix)
    assert done.returncode == 0, done.stderr
    found = said(launch(prefix, "status", "--json"))
    minor = PYTHON.partition(".")[2]
    assert (found["version"], found["args"], found["flags"]) == ("1.0", ["status", "--json"], [1, 1])
    assert found["dependency"] == f"cp3{minor}-cp3{minor}", "the wheel of this Python, of three"
    lib = prefix / "1.0" / "lib"
    assert (lib / "stable.py").exists()
    assert not list(lib.rglob("tool"))
    assert list(lib.rglob("*.pyc")), "compiled here: the daemon may not write there"
    assert os.readlink(prefix / "current") == "1.0"
    assert sorted(path.name for path in prefix.iterdir()) == ["1.0", "bin", "current"]


def test_doing_it_again_changes_nothing(tmp_path: Path, prefix: Path) -> None:
    top = make(tmp_path)
    install(top, prefix)
    before = {path: path.lstat().st_mtime_ns for path in prefix.rglob("*") if "bin" not in path.parts}
    done = install(top, prefix)
    assert "1.0 is there already" in done.stderr
    assert {path: path.lstat().st_mtime_ns for path in before} == before


def test_the_version_before_stays_and_older_ones_go(tmp_path: Path, prefix: Path) -> None:
    for version in ("1.0", "1.1", "1.2"):
        assert install(make(tmp_path, version), prefix).returncode == 0
    found = Prefix(prefix)
    assert (found.versions(), found.current(), found.previous()) == (["1.1", "1.2"], "1.2", "1.1")
    assert said(launch(prefix))["version"] == "1.2"
    found.switch("1.1")
    assert said(launch(prefix))["version"] == "1.1"


def test_staging_leaves_the_link(tmp_path: Path, prefix: Path) -> None:
    install(make(tmp_path, "1.0"), prefix)
    done = install(make(tmp_path, "1.1"), prefix, "--stage")
    assert "daemon upgrade 1.1" in done.stderr
    assert said(launch(prefix))["version"] == "1.0"
    assert Prefix(prefix).versions() == ["1.0", "1.1"]


def test_another_content_of_the_same_version_wants_force(tmp_path: Path, prefix: Path) -> None:
    top = make(tmp_path)
    install(top, prefix)
    (top / "more").write_text("x")
    seal(top)
    done = install(top, prefix)
    assert (done.returncode, "is there with other content" in done.stderr) == (1, True)
    assert install(top, prefix, "--force").returncode == 0


def test_what_a_power_cut_left_is_in_nobodys_way(tmp_path: Path, prefix: Path) -> None:
    """Half an unpacked version, and half a link: neither is ever run."""
    install(make(tmp_path, "1.0"), prefix)
    (prefix / ".1.1.new" / "lib").mkdir(parents=True)
    (prefix / ".current.new").symlink_to("1.1")
    assert Prefix(prefix).versions() == ["1.0"]
    assert said(launch(prefix))["version"] == "1.0"
    assert install(make(tmp_path, "1.1"), prefix).returncode == 0
    assert said(launch(prefix))["version"] == "1.1"
    assert not [path for path in prefix.iterdir() if path.name.startswith(".")]


# --- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["changed", "missing", "added", "link"])
def test_a_bundle_that_was_tampered_with_is_refused_before_anything_is_written(
    how: str, tmp_path: Path, prefix: Path
) -> None:
    top = make(tmp_path)
    name = next(path for path in (top / "wheels").iterdir() if path.name.startswith("edgeswarm"))
    if how == "changed":
        name.write_bytes(name.read_bytes() + b"x")
    elif how == "missing":
        name.unlink()
    elif how == "added":
        (top / "wheels" / "evil-1-py3-none-any.whl").write_bytes(b"")
    else:
        shutil.copy2(name, tmp_path / "same")
        name.unlink()
        name.symlink_to(tmp_path / "same")
    done = install(top, prefix)
    assert (done.returncode, "this bundle is damaged or was changed" in done.stderr) == (1, True)
    assert not prefix.exists()


@pytest.mark.parametrize(
    ("files", "record", "expected"),
    [
        ({"x/a.py": "a"}, {"x/a.py": "sha256=wrong"}, "x/a.py: is not what RECORD says"),
        ({"x/a.py": "a"}, {"x/a.py": ""}, "x/a.py: is not what RECORD says"),
        ({"../../../climbs.py": "a"}, None, "climbs.py"),
        ({"/climbs.py": "a"}, None, "climbs.py"),
    ],
)
def test_a_wheel_that_lies_or_climbs_is_refused(
    tmp_path: Path, prefix: Path, files: dict[str, str], record: dict[str, str] | None, expected: str
) -> None:
    top = make(tmp_path)
    fake_bundle.wheel(top / "wheels" / "x-1-py3-none-any.whl", files, record=record)
    seal(top)
    done = install(top, prefix)
    assert (done.returncode, expected in done.stderr) == (1, True), done.stderr
    assert not list(tmp_path.rglob("climbs.py"))
    assert not (prefix / "current").is_symlink()


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path, prefix: Path) -> None:
    top = make(tmp_path)
    (top / "wheels" / "x-1-py3-none-any.whl").write_bytes(b"no zip")
    seal(top)
    assert "BadZipFile" in install(top, prefix).stderr
    (top / "wheels" / "x-1-py3-none-any.whl").unlink()
    (top / "wheels" / "readme.txt").write_text("")
    seal(top)
    assert "readme.txt: no name of a wheel" in install(top, prefix).stderr


def test_the_wrong_machine_and_the_wrong_python_are_refused_by_name(tmp_path: Path, prefix: Path) -> None:
    done = install(make(tmp_path / "a", arch="riscv64"), prefix)
    assert done.returncode == 1
    assert "expected a machine riscv64, found " in done.stderr
    done = install(make(tmp_path / "b", pythons="3.8 3.9"), prefix)
    assert done.returncode == 1
    assert f"expected Python 3.8 or 3.9, found {PYTHON}" in done.stderr
    assert not prefix.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--prefix", "relative"], "expected an absolute path"),
        (["--prefix", "/tmp/a b"], "expected letters"),
        (["--root", "/nonexistent"], "not a folder"),
        (["--python", "/nonexistent/python3"], "does not run"),
        (["--sideways"], "unknown option --sideways"),
        (["--prefix"], "expected a value"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(tmp_path: Path, options: list[str], expected: str) -> None:
    done = install(make(tmp_path), tmp_path / "p", *options)
    assert done.returncode == 1
    assert expected in done.stderr


@ROOT_ONLY
def test_an_ordinary_user_is_told_what_to_do(tmp_path: Path) -> None:
    top = Path(shutil.copytree(make(tmp_path), f"/tmp/es-bundle-{os.getpid()}"))
    try:
        command = ["sh", str(top / "install.sh"), "--no-service"]
        done = subprocess.run(command, capture_output=True, text=True, user=NOBODY, env={}, timeout=60, cwd="/")
        assert done.returncode == 1
        assert "run it as root, or name another --prefix" in done.stderr or "expected Python" in done.stderr
    finally:
        shutil.rmtree(top)


# --- images -----------------------------------------------------------------------------------------------------------


def machine(root: Path, number: int, python: str = PYTHON) -> Path:
    """The root of an image for that ELF machine."""
    (root / "bin").mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin/busybox").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + number.to_bytes(2, "little"))
    (root / "bin/sh").symlink_to("/bin/busybox")
    (root / f"usr/bin/python{python}").touch()
    (root / "usr/bin/python3").symlink_to(f"python{python}")
    return root


def test_an_image_is_judged_by_its_own_programs_and_gets_its_own_paths(tmp_path: Path) -> None:
    aarch64 = make(tmp_path / "a", arch="aarch64")
    done = install(aarch64, Path("/opt/edgeswarm"), "--root", str(machine(tmp_path / "r", 183)))
    assert done.returncode == 0, done.stderr
    into = tmp_path / "r/opt/edgeswarm"
    assert (into / "bin/edgeswarm").read_text().startswith("#!/usr/bin/python3 -IS\n")
    assert json.loads((into / "1.0/bundle.json").read_text())["unpacked_for"] == PYTHON
    done = install(aarch64, Path("/opt/edgeswarm"), "--root", str(machine(tmp_path / "x", 62)))
    assert "expected a machine aarch64, found x86_64" in done.stderr
    done = install(aarch64, Path("/opt/edgeswarm"), "--root", str(machine(tmp_path / "p", 183, "3.7")))
    assert f"expected Python {PYTHON}, found 3.7" in done.stderr
    (tmp_path / "r/usr/bin/python3").unlink()
    done = install(aarch64, Path("/opt/edgeswarm"), "--root", str(tmp_path / "r"))
    assert "no python3 in the image" in done.stderr


# --- what is built ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("shell", ["sh", "dash", "busybox", "shellcheck"])
def test_scripts_parse_and_may_be_executed(script: str, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here")
    words = {"busybox": ["busybox", "ash", "-n"], "shellcheck": ["shellcheck", "-s", "dash"]}.get(shell, [shell, "-n"])
    done = subprocess.run([*words, str(ROOT / script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("word", ["ARCH=riscv64", "EXTRAS=nothing", "sideways"])
def test_a_bundle_of_what_there_is_not_is_refused(word: str, tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text(
        '#!/bin/sh\n[ "$2" = build ] || exec python3 "$@"\nmkdir -p "$6"; : >"$6/edgeswarm-1.0-py3-none-any.whl"\n'
    )
    stub.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / ".ci" / "bundle"), word, f"OUT={tmp_path / 'out'}"], capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "PY": str(stub)},
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert "expected" in done.stderr


@pytest.mark.soak
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_real_bundle(arch: str, tmp_path: Path) -> None:
    """Built with the network, installed without one; that of the other architecture holds its libraries only."""
    out = tmp_path / "out"
    built = subprocess.run(
        [str(ROOT / ".ci" / "bundle"), f"ARCH={arch}", f"PYTHONS={PYTHON}", f"OUT={out}"],
        capture_output=True,
        text=True,
    )
    if built.returncode:
        pytest.skip(f"no bundle could be built: {built.stderr[-300:]}")
    subprocess.run(["tar", "xzf", *out.glob("*.tar.gz"), "-C", str(out)], check=True)
    (top,) = (path for path in out.iterdir() if path.is_dir())
    for wheel in (top / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            machines = {archive.read(name)[18] for name in archive.namelist() if name.endswith(".so")}
        assert machines <= {62 if arch == "x86_64" else 183}, wheel.name
    done = install(top, tmp_path / "p")
    if arch != os.uname().machine:
        assert f"expected a machine {arch}" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    offline = ["unshare", "-n"] if os.geteuid() == 0 else []
    for words in (["version", "--json"], ["doctor", "--json"], ["daemon", "status", "--json"]):
        run = subprocess.run(
            [*offline, str(tmp_path / "p/bin/edgeswarm"), *words], capture_output=True, text=True, env={"HOME": "/tmp"}
        )
        assert run.returncode in (0, 8), run.stderr
        assert json.loads(run.stdout)
