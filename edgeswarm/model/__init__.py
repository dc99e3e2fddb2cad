"""Models: layers, activations, what they compute, and where they come from.  Arrays in, a model graph out; pure.

Importing this package costs nothing: what needs numpy is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgeswarm.model.activations import ACTIVATIONS

if TYPE_CHECKING:
    from edgeswarm.model import importers, mlp, reference, seeded
    from edgeswarm.model.importers import from_sklearn, load_json, load_npz, save_json, save_npz
    from edgeswarm.model.mlp import Dense, Mlp, from_arrays
    from edgeswarm.model.seeded import random_mlp, random_rows

__all__ = [
    "ACTIVATIONS",
    "Dense",
    "Mlp",
    "from_arrays",
    "from_sklearn",
    "importers",
    "load_json",
    "load_npz",
    "mlp",
    "random_mlp",
    "random_rows",
    "reference",
    "save_json",
    "save_npz",
    "seeded",
]

_HOMES = {
    "Dense": "mlp",
    "Mlp": "mlp",
    "from_arrays": "mlp",
    "from_sklearn": "importers",
    "load_json": "importers",
    "load_npz": "importers",
    "random_mlp": "seeded",
    "random_rows": "seeded",
    "save_json": "importers",
    "save_npz": "importers",
}


def __getattr__(name: str) -> Any:
    """Load a name's module on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"edgeswarm.model.{_HOMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"edgeswarm.model.{name}")
    raise AttributeError(f"module 'edgeswarm.model' has no attribute {name!r}")
