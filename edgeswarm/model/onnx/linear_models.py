"""Operators of ai.onnx.ml that are layers: what scikit-learn's converter writes beside those of ONNX itself.

Source: the ONNX operator specification, ai.onnx.ml.
"""

from __future__ import annotations

import numpy as np

from edgeswarm.errors import ModelError
from edgeswarm.model.onnx.dense import affine, layer
from edgeswarm.model.onnx.draft import Draft, Numbers
from edgeswarm.model.onnx.file import Step
from edgeswarm.model.onnx.pointwise import activated, softmaxed
from edgeswarm.model.onnx.reading import single, text_attr, whole_attr


def scaler(draft: Draft, step: Step) -> None:
    """Scaler: (x - offset) * scale, of a row of one axis."""
    value = draft.held(step, 0)
    offset, scale = (_floats_attr(step, name) for name in ("offset", "scale"))
    sizes = {len(offset), len(scale)} - {1}
    if value.rank != 1 or sizes - {value.shape[0]}:
        raise ModelError(f"expected one axis and a number for each of its values, found {list(value.shape)}")
    width = (value.shape[0],)
    held = single(np.broadcast_to(scale, width), "scale"), single(np.broadcast_to(-offset * scale, width), "offset")
    draft.put(step, affine(draft, value, *held))


def linear_regressor(draft: Draft, step: Step) -> None:
    """LinearRegressor: x @ coefficients.T + intercepts."""
    value, targets = draft.held(step, 0), whole_attr(step, "targets", 1)
    if text_attr(step, "post_transform", "NONE") != "NONE":
        raise ModelError("post_transform: expected NONE, found another")
    coefficients = _floats_attr(step, "coefficients")
    if value.rank != 1 or targets < 1 or coefficients.size != targets * value.shape[0]:
        raise ModelError(f"coefficients: expected {targets} for each value of {list(value.shape)}")
    bias = _floats_attr(step, "intercepts") if "intercepts" in step.attrs else np.zeros(targets)
    if bias.shape != (targets,):
        raise ModelError(f"intercepts: expected {targets}, found {len(bias)}")
    draft.put(step, layer(draft, value, coefficients.reshape(targets, -1).T, bias))


def linear_classifier(draft: Draft, step: Step) -> None:
    """LinearClassifier: its scores, the second output; labels, the first, are for an agent's decision."""
    value = draft.held(step, 0)
    bias = _floats_attr(step, "intercepts")
    coefficients = _floats_attr(step, "coefficients")
    if value.rank != 1 or coefficients.size != bias.size * value.shape[0] or len(step.outputs) < 2:
        raise ModelError(f"coefficients: expected {bias.size} for each value of {list(value.shape)}, and two outputs")
    if draft.uses[step.outputs[0]]:
        raise ModelError("expected its scores to be read alone, found its labels read; `decision: argmax` makes them")
    made = layer(draft, value, coefficients.reshape(bias.size, -1).T, bias)
    kind = text_attr(step, "post_transform", "NONE")
    if kind not in ("NONE", "SOFTMAX", "LOGISTIC") or (kind == "SOFTMAX" and bias.size == 1):
        raise ModelError(f"post_transform: expected NONE, SOFTMAX or LOGISTIC, found {kind[:40]!r}")
    halves = coefficients.reshape(bias.size, -1).sum(axis=0).any() or bias.sum()
    if kind == "SOFTMAX":
        made = softmaxed(draft, made)
    if kind == "LOGISTIC":
        made = activated(draft, made, "sigmoid")
    if kind == "SOFTMAX" or (kind == "LOGISTIC" and bias.size == 2 and not halves):
        draft.shares.add(made.tensor)
    draft.put(step, made, 1)


def normalizer(draft: Draft, step: Step) -> None:
    """Normalizer of shares, which add up to 1 as they are."""
    value, norm = draft.held(step, 0), text_attr(step, "norm", "MAX")
    if norm != "L1" or value.tensor not in draft.shares:
        raise ModelError("expected L1 of shares that add up to 1, found another (one-versus-rest?)")
    draft.put(step, value)


def _floats_attr(step: Step, name: str) -> Numbers:
    value = step.attrs.get(name)
    if not isinstance(value, np.ndarray) or not value.size or value.dtype != np.float32:
        raise ModelError(f"{name}: expected numbers, found {str(value)[:40]!r}")
    held: Numbers = value.reshape(-1).astype(np.float64)
    if not np.isfinite(held).all():
        raise ModelError(f"{name}: expected finite numbers, found NaN or infinity")
    return held
