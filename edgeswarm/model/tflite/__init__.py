"""TFLite files: read (`file.py`), and turned into model graphs (`convert.py`), operator by operator (`ops_*.py`).

The flatbuffer is read by the accessors of the package `tflite`, which the extra `build` brings; what they find is not
believed.  Formulas and formats are facts of the files and of what LiteRT computes; nothing of its text is used here.
Raises ModelError (with `who`, the file) or LimitError, nothing else.
"""

from __future__ import annotations

IDENTIFIER = b"TFL3"


def is_tflite(data: bytes) -> bool:
    """Whether the first bytes say so: the identifier of the schema, behind the offset of the root table."""
    return data[4:8] == IDENTIFIER
