"""AVERAGE_POOL_2D, MAX_POOL_2D, MEAN, SOFTMAX."""

from __future__ import annotations

import math
from typing import Any

from edgeswarm.errors import ModelError
from edgeswarm.model.tflite.fused import activation, clamp
from edgeswarm.model.tflite.ops_conv import window
from edgeswarm.model.tflite.site import Site, rows_shape

SHARE = 1 / 256  # the scale of an 8-bit probability, whose zero point is -128


def pool_2d(site: Site) -> None:
    kernel = int(site.option("FilterHeight")), int(site.option("FilterWidth"))
    attrs, op = window(site, kernel, dilated=False), "max_pool" if site.op.name == "MAX_POOL_2D" else "average_pool"
    if site.dtype(0) == "i8":
        at = site.add(f"{op}_i8", [site.read(0, "i8")], **attrs, **clamp(site))
    else:
        at = site.add(op, [site.read(0, "f32")], **attrs, activation=activation(site))
    site.write(at, (1, *site.graph_tensor(at).shape))


def mean(site: Site) -> None:
    shape = site.shape(0)
    axes = sorted({site.axis(axis, len(shape)) for axis in site.numbers(1, "axes")}) if shape else []
    if site.option("KeepDims"):
        out = tuple(1 if axis in axes else side for axis, side in enumerate(shape))
    else:
        out = tuple(side for axis, side in enumerate(shape) if axis not in axes)
    at = site.read(0, "f32", "i8")
    dropped = len(shape) - len(site.graph_tensor(at).shape) if shape else 0
    inner = tuple(axis - dropped for axis in axes if axis >= dropped)
    quantised = site.dtype(0) == "i8"
    if not inner and not quantised:
        return site.write(at, out)
    more: dict[str, Any] = {"like": site.like()} if quantised else {}
    if not inner:  # of one value each; the scale may still change
        at, inner = site.reshaped(at, (*site.graph_tensor(at).shape, 1)), (len(site.graph_tensor(at).shape),)
    kept = tuple(1 if axis in inner else side for axis, side in enumerate(site.graph_tensor(at).shape))
    gone = tuple(side for axis, side in enumerate(site.graph_tensor(at).shape) if axis not in inner) or (1,)
    keep = int(rows_shape(out) == kept or rows_shape(out) != gone)
    at = site.add("mean_i8" if quantised else "mean", [at], axes=inner, keep=keep, **more)
    return site.write(at, out)


def reduce_max(site: Site) -> None:
    """A pooling over all of the axes, which lie side by side."""
    shape = site.shape(0)
    axes = sorted({site.axis(axis, len(shape)) for axis in site.numbers(1, "axes")}) if shape else []
    keep = bool(site.option("KeepDims"))
    out = [1 if axis in axes else side for axis, side in enumerate(shape) if keep or axis not in axes]
    inner = [axis for axis in axes if shape[axis] > 1]
    if inner and inner != list(range(inner[0], inner[-1] + 1)):
        raise ModelError(f"{site.name(1)}: expected axes side by side, found {axes}")
    at = site.read(0, "f32", "i8")
    if inner:
        before, wide = math.prod(shape[: inner[0]]), math.prod(shape[axis] for axis in inner)
        image = site.reshaped(at, (before, wide, math.prod(shape[inner[-1] + 1 :])))
        attrs: dict[str, Any] = {"kernel": (1, wide), "stride": (1, wide), "pad": (0, 0, 0, 0)}
        if site.dtype(0) == "i8":
            at = site.add("max_pool_i8", [image], **attrs, low=-128, high=127)
        else:
            at = site.add("max_pool", [image], **attrs, activation="linear")
    site.write(at, out)


def softmax(site: Site) -> None:
    beta = float(site.option("Beta"))
    if not math.isfinite(beta):
        raise ModelError(f"beta: expected a number, found {beta}")
    if site.dtype(0) == "i8":
        if site.steps() != (SHARE, -128):
            raise ModelError(f"{site.output_name(0)}: expected scale 1/256 and zero point -128, found {site.steps()}")
        at = site.add("softmax_i8", [site.read(0, "i8")], like=site.like(), beta=beta)
    else:
        at = site.add("softmax", [site.read(0, "f32")], beta=beta)
    site.write(at, site.shape(0))


OPERATORS = {
    "AVERAGE_POOL_2D": pool_2d,
    "MAX_POOL_2D": pool_2d,
    "MEAN": mean,
    "REDUCE_MAX": reduce_max,
    "SOFTMAX": softmax,
}
