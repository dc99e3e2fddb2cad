"""What ships: the wheel's file list against a golden list, straight from the checkout and by way of the sdist.

`make golden` rewrites tests/repo/golden/wheel.txt.  Nothing is downloaded: hatchling is called in this environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "repo" / "golden" / "wheel.txt"
AREAS = ("wasm_kernels", "sandbox", "profiles", "firmware_configs")

BUILD = """
import os, sys
import hatchling.build as backend
os.chdir(sys.argv[1])
print(getattr(backend, sys.argv[2])(sys.argv[3]))
"""


def build(source: Path, hook: str, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, str(source), hook, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean_environment())
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GIT_"))}


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if ".dist-info/" not in name)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks or would track, with junk beside it that must not ship, in a path with a space."""
    copy = tmp_path_factory.mktemp("check out") / "project"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    for junk in (
        "profiles/mine.toml.orig",
        "sandbox/core",
        "edgeswarm/__pycache__/limits.cpython-311.pyc",
        "edgeswarm/shipped/profiles/stale.toml",
        "dist/edgeswarm-0.0.0-py3-none-any.whl",
        ".venv/lib/thing.py",
    ):
        (copy / junk).parent.mkdir(parents=True, exist_ok=True)
        (copy / junk).write_text("junk")
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, "build_wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel_from_sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(checkout, "build_sdist", work)) as archive:
        archive.extractall(work, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # not in 3.11.2
    (unpacked,) = (path for path in work.iterdir() if path.is_dir())
    return build(unpacked, "build_wheel", work / "out")


def test_wheel_holds_what_the_golden_list_says(wheel: Path) -> None:
    found = "".join(f"{name}\n" for name in names(wheel))
    if os.environ.get("GOLDEN") == "rewrite":
        GOLDEN.write_text(found)
    assert found.splitlines() == GOLDEN.read_text().splitlines(), "run `make golden` and read the diff"


def test_wheel_from_the_sdist_is_the_same_wheel(wheel: Path, wheel_from_sdist: Path) -> None:
    assert names(wheel_from_sdist) == names(wheel)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(wheel_from_sdist) as other:
        assert [name for name in names(wheel) if one.read(name) != other.read(name)] == []


def test_wheel_is_pure_and_names_its_licence(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_everything_in_the_data_folders_ships(wheel: Path) -> None:
    """A new kind of file needs a glob in pyproject.toml; without one it would work in a checkout and nowhere else.

    Tools that make the data stay behind: Python in a data folder does not ship.
    """
    listed = subprocess.run(["git", "ls-files", "-z", *AREAS], cwd=ROOT, capture_output=True, text=True)
    tracked = {f"edgeswarm/shipped/{name}" for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    shipped = {name for name in names(wheel) if name.startswith("edgeswarm/shipped/")}
    assert {name for name in tracked if not name.endswith(".py")} - shipped == set()
    assert [name for name in shipped if name.endswith(".py")] == []


@pytest.mark.parametrize("how", ["wheel", "wheel_from_sdist"])
def test_shipped_files_are_found_from(how: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Unpacked wheel, foreign folder, isolated interpreter: assets.asset finds every file below shipped/."""
    with zipfile.ZipFile(request.getfixturevalue(how)) as archive:
        archive.extractall(tmp_path)
    assert_assets_are_found(tmp_path, names(request.getfixturevalue(how)))


def test_shipped_files_are_found_from_a_checkout(wheel: Path) -> None:
    assert_assets_are_found(ROOT, names(wheel))


def test_an_editable_install_points_at_the_checkout(checkout: Path, tmp_path: Path) -> None:
    editable = build(checkout, "build_editable", tmp_path / "editable")
    with zipfile.ZipFile(editable) as archive:
        (path_file,) = (name for name in archive.namelist() if name.endswith(".pth"))
        assert archive.read(path_file).decode().split("\n")[0] == str(checkout)
        assert not [name for name in archive.namelist() if "shipped" in name]


def assert_assets_are_found(site: Path, listed: list[str]) -> None:
    shipped = [name.split("/", 2)[2] for name in listed if name.startswith("edgeswarm/shipped/")]
    assert len(shipped) > 20
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from edgeswarm.assets import asset\n"
        f"for name in {shipped!r}: assert asset(*name.split('/', 1)).is_file(), name\n"
        "import edgeswarm; print(edgeswarm.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd="/", capture_output=True, text=True, timeout=60, env=clean_environment()
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(site)


def test_entry_points_and_version_agree_with_the_code() -> None:
    """Every console script's module is in the package, and a `__version__` there is the project's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, target in project["scripts"].items():
        module = ROOT / target.partition(":")[0].replace(".", "/")
        assert module.with_suffix(".py").is_file() or (module / "__init__.py").is_file(), f"{name}: {target}"
    import edgeswarm

    assert getattr(edgeswarm, "__version__", project["version"]) == project["version"]
