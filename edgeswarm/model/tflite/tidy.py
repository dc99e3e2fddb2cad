"""A graph as the operators made it, made shorter: padding becomes the convolution's own, and what nobody needs goes.

Converters write a PAD before a convolution wherever its padding is not SAME: causal ones, and Keras' ZeroPadding2D.
"""

from __future__ import annotations

from dataclasses import replace

from edgeswarm.model.graph import Graph
from edgeswarm.model.nodes import Node, Tensor
from edgeswarm.model.op import wholes

_CONVOLUTIONS = ("conv2d", "depthwise", "conv2d_i8", "depthwise_i8")


def tidied(tensors: list[Tensor], nodes: list[Node], output: int) -> Graph:
    """The graph of these nodes, whose input is tensor 0.  Both lists are consumed."""
    makers: dict[int, Node] = {}
    whole: list[Node] = []
    for node in nodes:
        if node.op in _CONVOLUTIONS:
            whole += _with_padding(node, tensors, makers)
        else:
            whole.append(node)
        makers.update({made.output: made for made in whole[-2:]})
    return _pruned(tensors, whole, output)


def _with_padding(node: Node, tensors: list[Tensor], makers: dict[int, Node]) -> list[Node]:
    """A convolution that pads its image itself, behind a reshape where there must be one; or as it was."""
    above = makers.get(node.inputs[0])
    turned = above is not None and above.op == "reshape"
    if above is not None and turned:
        above = makers.get(above.inputs[0])
    if above is None or above.op != "pad" or above.attrs["value"] != tensors[above.inputs[0]].zero_point:
        return [node]
    image, source = tensors[node.inputs[0]], tensors[above.inputs[0]]
    found = _sides(image, source, tensors[above.output], wholes(above.attrs, "pads", None, 0, 1 << 31))
    if found is None:
        return [node]
    shape, around = found
    pad = [own + more for own, more in zip(wholes(node.attrs, "pad", 4, 0, 1 << 31), around, strict=True)]
    kernel, dilation = wholes(node.attrs, "kernel", 2, 1, 1 << 31), wholes(node.attrs, "dilation", 2, 1, 1 << 31)
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if max(pad[:2]) >= spread[0] or max(pad[2:]) >= spread[1]:  # whole windows of padding
        return [node]
    made, at = [], above.inputs[0]
    if source.shape != shape:
        tensors.append(replace(source, shape=shape))
        made, at = [Node("reshape", (at,), len(tensors) - 1, {"shape": shape})], len(tensors) - 1
    attrs = {**node.attrs, "pad": tuple(pad)}
    return [*made, Node(node.op, (at,), node.output, attrs, node.params)]


def _sides(
    image: Tensor, source: Tensor, padded: Tensor, pads: tuple[int, ...]
) -> tuple[tuple[int, int, int], tuple[int, int, int, int]] | None:
    """The image before it was padded, and how; None where `padded` is not the image but for axes of 1."""
    sides = zip(padded.shape, source.shape, pads[::2], pads[1::2], strict=True)
    inner = [side for side in sides if side[0] != 1]
    if [side[0] for side in inner] != [side for side in image.shape if side != 1]:
        return None
    placed = [(1, 1, 0, 0) if side == 1 else inner.pop(0) for side in image.shape]
    (_, height, top, bottom), (_, width, left, right), (_, channels, before, after) = placed
    if before or after:
        return None
    return (height, width, channels), (top, bottom, left, right)


def _pruned(tensors: list[Tensor], nodes: list[Node], output: int) -> Graph:
    """Without the nodes that the output does not need, their tensors numbered anew."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if node.output in wanted:
            kept.append(node)
            wanted.update(node.inputs)
    wanted.add(0)
    number = {old: new for new, old in enumerate(sorted(wanted))}
    made = tuple(
        replace(node, inputs=tuple(number[at] for at in node.inputs), output=number[node.output])
        for node in reversed(kept)
    )
    return Graph(tuple(tensors[old] for old in sorted(wanted)), made, 0, number[output])
