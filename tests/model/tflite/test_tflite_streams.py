"""Causal nets of TFLite files as streams: frame by frame what LiteRT answers to whole windows, of 8 bits to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from frame_streams import played
from tflite_cases import Case, as_held, expected
from tflite_files import NONE, RELU, VALID

from edgeswarm.model.streaming import streamed
from edgeswarm.model.tflite.convert import load

LENGTH, CHANNELS = 16, 3


def causal(case: Case, i8: bool) -> tuple[int, int]:
    """Two layers as Keras' causal Conv1D becomes them, the last frame, and a dense layer."""
    at = first = case.tensor((1, LENGTH, CHANNELS), i8, scale=0.02, point=3)
    options = {"Padding": VALID, "StrideH": 1, "StrideW": 1, "FusedActivationFunction": RELU}
    for c, filters, k in ((CHANNELS, 4, 3), (4, 5, 4)):
        wide = LENGTH + k - 1
        middle, image = case.like((1, wide, c), at), case.like((1, 1, wide, c), at)
        case.net.op("PAD", [at, case.net.constant([[0, 0], [k - 1, 0], [0, 0]])], [middle], version=2)
        case.net.op("EXPAND_DIMS", [middle, case.net.constant([-3])], [image])
        read = case.weights((filters, 1, k, c), i8, read=at, axis=0, channels=filters)
        made = case.tensor((1, 1, LENGTH, filters), i8, scale=0.5)
        case.net.op("CONV_2D", [image, *read], [made], version=3 if i8 else 1, **options)
        at = case.like((1, LENGTH, filters), made)
        case.net.op("SQUEEZE", [made], [at], SqueezeDims=[1])
    last = case.like((1, 5), at)
    cut = [case.net.constant(numbers) for numbers in ([0, -1, 0], [1, LENGTH, 5], [1, 1, 1])]
    case.net.op("STRIDED_SLICE", [at, *cut], [last], BeginMask=5, EndMask=7, ShrinkAxisMask=2)
    answer = case.tensor((1, 2), i8)
    read = case.weights((2, 5), i8, read=last, axis=0, channels=2, single=True)
    case.net.op("FULLY_CONNECTED", [last, *read], [answer], version=4 if i8 else 1, FusedActivationFunction=NONE)
    return first, answer


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("i8", [False, True])
def test_frames_answer_as_windows(i8: bool, frames: int) -> None:
    case = Case(3)
    x, y = causal(case, i8)
    data = case.net.file([x], [y])
    made = streamed(load(data).graph, frames)
    assert (made.windows, made.memory) == (True, 2 * CHANNELS + 3 * 4)
    held = case.random.integers(-128, 128, (3 * LENGTH, CHANNELS)) if i8 else case.random.normal(size=(48, CHANNELS))
    rows = np.float32(0.02) * (held - 3).astype(np.float32) if i8 else held.astype(np.float32)
    answers = played(made, rows)
    ends = range(LENGTH, 3 * LENGTH + 1, frames)
    windows = np.stack([held[end - LENGTH : end] for end in ends])
    theirs = expected(data, case.net, y, (windows if i8 else windows.astype(np.float32))[:, None])
    ours = as_held(case.net, y, np.stack([answers[end // frames - 1] for end in ends]))
    assert (ours == theirs).all() if i8 else np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
