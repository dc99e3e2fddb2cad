"""For all tests: on a machine that lacks layers, the word that lets agents start there."""

from __future__ import annotations

import os

from tier import word

os.environ.update(word())
