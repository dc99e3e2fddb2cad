"""Makes the TFLite files of this folder with TensorFlow's own converter: small Keras models with random weights.

    pip install tensorflow-cpu        # 2.21 made them; nothing else here needs it
    python tests/data/tflite/make.py

Their point is what a real converter writes: open batches and computed shapes, SPACE_TO_BATCH_ND around dilated
convolutions, folded normalisation, quantisation with a scale a channel, uint8 edges, weights of float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from keras import Input, Model, layers

FOLDER = Path(__file__).resolve().parent
DICE = np.random.default_rng(0)


def cnn() -> Model:
    start = Input((32, 32, 3))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, padding="same")(start)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
    x = layers.Dense(16, activation="relu")(layers.Flatten()(layers.MaxPooling2D()(x)))
    return Model(start, layers.Dense(5, activation="softmax")(x))


def tcn() -> Model:
    x = start = Input((64, 8))
    for rate in (1, 2, 4):
        y = layers.Conv1D(16, 3, dilation_rate=rate, padding="causal", activation="relu")(x)
        x = layers.Add()([layers.Conv1D(16, 1)(x), y])
    return Model(start, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def dil2d() -> Model:
    start = Input((24, 24, 4))
    x = layers.Conv2D(8, 3, dilation_rate=2, padding="same", activation="relu")(start)
    x = layers.DepthwiseConv2D(3, dilation_rate=2, padding="same")(x)
    x = layers.Conv2D(4, 3, dilation_rate=(2, 2), padding="valid")(x)
    return Model(start, layers.Dense(2)(layers.Flatten()(x)))


def acts() -> Model:
    start = Input((12, 12, 4))
    x = layers.LeakyReLU(negative_slope=0.2)(layers.Conv2D(8, 3)(start))
    x = layers.Activation("tanh")(layers.Conv2D(8, 3)(x))
    x = layers.PReLU(shared_axes=[1, 2])(layers.Activation("sigmoid")(layers.Conv2D(8, 3)(x)))
    x = layers.Reshape((-1,))(layers.ZeroPadding2D(((1, 2), (0, 1)))(x))
    return Model(start, layers.Dense(2)(x))


def swish() -> Model:
    x = start = Input((12, 12, 4))
    for name in ("swish", "hard_swish", "gelu"):
        x = layers.Conv2D(8, 3, activation=name)(x)
    return Model(start, layers.Dense(2)(layers.Flatten()(x)))


def up() -> Model:
    start = Input((8, 8, 4))
    x = layers.UpSampling2D(2)(layers.Conv2D(8, 3, padding="same", activation="relu")(start))
    return Model(start, layers.Conv2D(2, 3, padding="same")(x))


def convt() -> Model:
    start = Input((8, 8, 4))
    return Model(start, layers.Conv2DTranspose(4, 3, strides=2, padding="same")(start))


def lstmu() -> Model:
    start = Input((8, 4))
    return Model(start, layers.Dense(2)(layers.LSTM(8, unroll=True)(start)))


def two() -> Model:
    a, b = Input((6,), name="a"), Input((8, 8, 2), name="b")
    y = layers.Flatten()(layers.Conv2D(3, 3)(b))
    x = layers.Concatenate()([layers.Dense(5, activation="relu")(a), y])
    return Model([a, b], [layers.Dense(2, activation="softmax")(x), layers.Dense(3)(x)])


def td() -> Model:
    start = Input((10, 12))
    x = layers.Dense(4)(layers.Permute((2, 1))(layers.Dense(8, activation="relu")(start)))
    return Model(start, layers.Dense(2)(layers.Flatten()(x)))


def sepconv() -> Model:
    start = Input((30, 20))
    x = layers.MaxPooling1D(2)(layers.SeparableConv1D(8, 3, activation="relu")(start))
    x = layers.Flatten()(layers.Dropout(0.3)(layers.Cropping1D((1, 2))(x)))
    return Model(start, layers.Dense(3, activation="softmax")(x))


def group() -> Model:
    start = Input((12, 12, 8))
    return Model(start, layers.Flatten()(layers.Conv2D(8, 3, groups=4)(start)))


def shuffle() -> Model:
    start = Input((8, 8, 8))
    x = layers.Permute((1, 2, 4, 3))(layers.Reshape((8, 8, 2, 4))(start))
    return Model(start, layers.Conv2D(4, 1)(layers.Reshape((8, 8, 8))(x)))


WANTED: dict[Callable[[], Model], tuple[str, ...]] = {
    acts: ("i8io",), cnn: ("f16", "u8io"), convt: ("i8io",), dil2d: ("f32", "i8io"), group: ("i8io",),
    lstmu: ("f32", "i8io"), sepconv: ("i8io",), shuffle: ("i8io",), swish: ("i8io",), tcn: ("f32", "i8io"),
    td: ("i8io",), two: ("i8",), up: ("f32",),
}  # fmt: skip
"""i8: full int8 inside, floats at the edges; i8io, u8io: 8 bits at the edges, too."""


def converted(model: Model, kind: str, order: int = 1) -> bytes:
    """The file.  order: of several inputs, as the converter sees them: 1 or -1."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)

    def rows() -> Iterator[list[Any]]:
        for _ in range(8):
            yield [DICE.normal(size=(1, *given.shape[1:])).astype(np.float32) for given in model.inputs[::order]]

    if kind != "f32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "f16":
        converter.target_spec.supported_types = [tf.float16]
    if kind.endswith("io") or kind == "i8":
        converter.representative_dataset = rows
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if kind.endswith("io"):
        edge = tf.int8 if kind == "i8io" else tf.uint8
        converter.inference_input_type = converter.inference_output_type = edge
    try:
        return bytes(converter.convert())
    except RuntimeError:
        if order < 0:
            raise
        return converted(model, kind, -1)


if __name__ == "__main__":
    for make, kinds in WANTED.items():
        made = make()
        for weights in made.weights:  # normalisation that does something
            if "moving_variance" in weights.path:
                weights.assign(np.abs(DICE.normal(1, 0.1, weights.shape)))
            elif any(name in weights.path for name in ("gamma", "beta", "moving_mean")):
                weights.assign(weights.numpy() + DICE.normal(0, 0.1, weights.shape))
        for kind in kinds:
            (FOLDER / f"{make.__name__}_{kind}.tflite").write_bytes(converted(made, kind))
