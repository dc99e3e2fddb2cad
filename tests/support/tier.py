"""What an operator has to say on a machine that lacks layers, so that the tests show how far such a machine gets."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TRY = """
import os
from edgeswarm.jail import kernel
uid, gid = os.geteuid(), os.getegid()
kernel.landlock_abi()
kernel.unshare(kernel.NAMESPACE_FLAGS)
kernel.map_identity(outer_uid=uid, outer_gid=gid, inner_id=0)
"""


@functools.cache
def word() -> dict[str, str]:
    """Settings by environment: nothing where every layer is there (tier A), else the word for any tier."""
    tried = subprocess.run(
        [sys.executable, "-c", _TRY], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    return {} if tried.returncode == 0 else {"EDGESWARM_JAILS__MIN_TIER": "C"}
