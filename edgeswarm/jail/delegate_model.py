"""The test model: one dense layer that every runtime can compute, as a TFLite file, with what it must answer.

The zygote computes it once, so that a runtime looks at the processor while there are files; `doctor` runs it in a jail.
4 inputs, 2 outputs: their sum and 0.5, and their alternating sum less 0.5.
"""

from __future__ import annotations

import base64
import struct
from typing import Final

WIDTH_IN: Final = 4
WIDTH_OUT: Final = 2
INPUT: Final = struct.pack("<4f", 1.0, 2.0, 3.0, 4.0)
ANSWER: Final = (10.5, -2.5)
"""Exact in float32, in any order of the sums; in half precision too."""

_FILE: Final = (
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAABoAAAAmAEAAAMAAAADAAAAVAAAACQAAAAEAAAA6v///wQAAAAIAAAAAAAAPwAAAL8A"
    "AAYACAAEAAYAAAAEAAAAIAAAAAAAgD8AAIA/AACAPwAAgD8AAIA/AACAvwAAgD8AAIC/qP///wEAAAAQAAAADAAUABAADAAIAAQADAAAABAA"
    "AABYAAAAXAAAAGAAAAABAAAAFAAAAAAADgAUAAAAEAAMAAsABAAOAAAAFAAAAAAAAAgQAAAAFAAAAAQABAAEAAAAAQAAAAMAAAADAAAAAAAA"
    "AAEAAAACAAAAAQAAAAMAAAABAAAAAAAAAAQAAACMAAAAWAAAACgAAAAEAAAAkP///wgAAAAMAAAAAwAAAG91dAACAAAAAQAAAAIAAADg////"
    "DAAAAAIAAAAMAAAAAQAAAGIAAAABAAAAAgAAAAwAEAAMAAAACAAEAAwAAAAMAAAAAQAAAAwAAAABAAAAdwAAAAIAAAACAAAABAAAAAwADAAI"
    "AAAAAAAEAAwAAAAIAAAADAAAAAIAAABpbgAAAgAAAAEAAAAEAAAAAQAAABAAAAAMAAwACwAAAAAABAAMAAAACQAAAAAAAAk="
)


def model() -> bytes:
    return base64.b64decode(_FILE)
