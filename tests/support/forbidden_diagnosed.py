"""As `forbidden_worker`, but that the jail is one that tells what it was stopped for."""

from __future__ import annotations

import forbidden_worker

from edgeswarm.jail import diagnose_worker

FDS = diagnose_worker.worker.FDS
start = forbidden_worker.escaping(diagnose_worker.start)
