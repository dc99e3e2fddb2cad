"""A bundle of a few kilobytes: the real install.sh, unpack.py and launcher around wheels that only say who they are."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
MAIN = """
import json, os, sys
def main():
    if os.path.exists(os.path.join(os.path.dirname(__file__), "../../../broken-{version}")):
        sys.exit(9)
    import dependency
    print(json.dumps({{"version": {version!r}, "args": sys.argv[1:], "dependency": dependency.TAG,
                      "again": sys.orig_argv, "flags": [sys.flags.isolated, sys.flags.no_site]}}))
"""


def wheel(path: Path, files: dict[str, str], *, record: dict[str, str] | None = None) -> None:
    """record: what RECORD says of a file, where it is not the truth."""
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
            sha = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{name},{(record or {}).get(name, 'sha256=' + sha)},{len(text)}")
        info = f"{path.name.split('-')[0]}-1.dist-info"
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")


def make(folder: Path, version: str = "1.0", *, arch: str | None = None, pythons: str = PYTHON) -> Path:
    """folder/edgeswarm-<version>, sealed.  A version ends with exit 9 while PREFIX/broken-<version> is there."""
    top = folder / f"edgeswarm-{version}"
    (top / "wheels").mkdir(parents=True)
    for name in ("install.sh", "unpack.py", "launcher.py", "start.py"):
        shutil.copy2(ROOT / ".ci" / "bundle.d" / name, top)
    main = MAIN.format(version=version)
    wheel(
        top / "wheels" / f"edgeswarm-{version}-py3-none-any.whl",
        {"edgeswarm/__init__.py": "", "edgeswarm/__main__.py": main, "edgeswarm-1.data/scripts/tool": "#!x"},
    )
    minor = int(PYTHON.partition(".")[2])
    for tag in (f"cp3{minor}-cp3{minor}", f"cp3{minor - 1}-cp3{minor - 1}", f"cp3{minor + 1}-abi3"):
        wheel(top / "wheels" / f"dependency-1-{tag}-manylinux_2_28_{platform.machine()}.whl", {
            "dependency.py": f"TAG = {tag!r}\n",
        })  # fmt: skip
    wheel(top / "wheels" / "stable-1-cp38-abi3-manylinux2014_any.whl", {"stable.py": ""})
    about = {"format": 1, "version": version, "arch": arch or platform.machine(), "pythons": pythons.split()}
    (top / "bundle.json").write_text(json.dumps(about))
    seal(top)
    return top


def seal(top: Path) -> None:
    names = sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())
    names = [name for name in names if name != "SHA256SUMS"]
    sums = [f"{hashlib.sha256((top / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (top / "SHA256SUMS").write_text("".join(sums))


def install(
    top: Path, prefix: Path, *options: str, python: str = os.path.realpath(sys.executable)
) -> subprocess.CompletedProcess[str]:
    """In an empty environment.  The interpreter is named: the one that runs the tests need not be the system's."""
    given = [] if {"--root", "--python"} & set(options) else ["--python", python]
    command = ["sh", str(top / "install.sh"), "--prefix", str(prefix), "--no-service", *given, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", env={})


def launch(prefix: Path, *arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    more: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    command = [str(prefix / "bin" / "edgeswarm"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={}, cwd="/", **more)


def said(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
