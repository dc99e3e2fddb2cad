"""ONNX files, as PyTorch, scikit-learn and others export them, into model graphs; on the operator's machine only.

The parser is the `onnx` package (the extra `onnx`); files are untrusted, and every number is checked here.
Channels come last in our graphs: `draft.py` tells how that costs nothing where the file's order allows it.
"""

from edgeswarm.model.onnx.convert import Imported, imported

__all__ = ["Imported", "imported"]
