"""Bounds of TFLite files, which an operator imports; no device reads one but through its delegate."""

TFLITE_TENSORS_MAX = 16_384  # of one file, and its buffers: three or four for each of GRAPH_NODES_MAX operators
TFLITE_AXES_MAX = 8  # of one tensor, those that are folded away too: TFLite knows no more in most of its kernels
TFLITE_OP_TENSORS_MAX = 4_096  # that one operator reads or writes, as many as `join` takes
TFLITE_NAME_CHARS_MAX = 128  # of a tensor's name in a message; converters write paths of 60
TFLITE_FOLDED_VALUES_MAX = 1_024  # whole numbers of one tensor that is computed while importing: shapes, not data
TFLITE_PARAMS_RATIO_MAX = 8  # bytes of weights for each of the file's: float16 doubles, 8 bits quadruple
TFLITE_GROUPS_MAX = 64  # of one convolution, each of which becomes one of its own; ResNeXt has 32
