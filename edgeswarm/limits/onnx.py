"""Bounds of ONNX files, which an operator imports; no device reads one."""

from edgeswarm.limits.units import MIB

ONNX_FILE_BYTES_MAX = 272 * MIB  # weights of one section of the largest size, and the rest
ONNX_FIELDS_MAX = 262_144  # of protobuf, arrays of numbers apart: 4,096 nodes with 40 each, and their names and types
ONNX_PACKED_BYTES_MAX = 16 * MIB  # whole numbers one behind the other, eight bytes of each once parsed: shapes, lists
ONNX_DEPTH_MAX = 24  # messages inside each other: a number of a node's attribute is the fifth, branches nest by three
ONNX_AXES_MAX = 8  # of numbers in a file, such as weights: 5 are in use, and what is folded away may have more
ONNX_GROUPS_MAX = 64  # of one convolution, each of which becomes one of its own; depthwise ones have no such bound
ONNX_FOLDED_VALUES_MAX = 67_108_864  # numbers that steps on numbers alone may make: 256 MiB of float32, as weights
