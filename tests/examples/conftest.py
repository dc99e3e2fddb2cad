"""The examples' scripts as fixtures: they import each other by name, as they do when they are run."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"

for _folder in (EXAMPLES, EXAMPLES / "vitals"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))  # behind everything else: nothing of theirs may hide another module


def _script(path: str) -> ModuleType:
    """docs/examples/<path> as a module of another name: two folders have a build.py."""
    name = "example_" + path.replace("/", "_").removesuffix(".py")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def digits() -> ModuleType:
    """docs/examples/digits/build.py"""
    return _script("digits/build.py")


@pytest.fixture(scope="session")
def vitals() -> ModuleType:
    """docs/examples/vitals/build.py, with its neighbours: .network, .training, .evaluate, .bursts"""
    return _script("vitals/build.py")


@pytest.fixture(scope="session")
def recorder() -> ModuleType:
    """docs/examples/vitals/record.py"""
    return _script("vitals/record.py")


@pytest.fixture(scope="session")
def jailbreak() -> ModuleType:
    """docs/examples/jailbreak/run.py"""
    return _script("jailbreak/run.py")
