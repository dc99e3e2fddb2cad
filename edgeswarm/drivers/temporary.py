"""A folder for a while."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path


class TemporaryFolder:
    """A folder that goes with this process, and with no child that it has forked."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="edgeswarm-"))
        self.remove = weakref.finalize(self, _remove_ours, self.path, os.getpid())


def _remove_ours(path: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(path, ignore_errors=True)
