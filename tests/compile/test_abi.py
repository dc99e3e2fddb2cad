"""The layout in a kernel: read back exactly, refused when it breaks a rule, never another error than ours."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.compile import Layout, Rows, Weights, attach_layout, read_layout
from edgeswarm.compile import wasm as binary
from edgeswarm.errors import KernelError, LimitError
from edgeswarm.limits import (
    KERNEL_BATCH_MAX,
    KERNEL_LAYOUT_BYTES_MAX,
    KERNEL_MEMORY_BYTES_MAX,
    KERNEL_WASM_BYTES_MAX,
    KERNEL_WASM_ITEMS_MAX,
    KERNEL_WIDTH_MAX,
)

LAYOUT = Layout(
    batch_max=4,
    deterministic=False,
    input=Rows(64, 12, 3),
    output=Rows(128, 16, 2),
    weights=Weights(192, 32, (2, 4)),
    memory_bytes=65536,
    topology="ab" * 32,
)


@st.composite
def layouts(draw):
    batch = draw(st.integers(1, 64))
    at, places = 0, []
    for _ in range(2):
        width = draw(st.integers(1, 200))
        stride = 4 * (width + draw(st.integers(0, 5)))
        at += 64 * draw(st.integers(0, 3))
        places.append(Rows(at, stride, width))
        at = -(-(at + batch * stride) // 64) * 64
    shape = tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=4)))
    size = 4
    for axis in shape:
        size *= axis
    memory = max(1, at + size + draw(st.integers(0, 1000)))
    return Layout(
        batch, draw(st.booleans()), *places, Weights(at, size, shape), memory, draw(st.sampled_from("0f")) * 64
    )


@given(layouts())
def test_layout_reads_back_from_its_text_and_from_a_module(layout):
    assert Layout.from_json(layout.to_json()) == layout
    assert read_layout(attach_layout(binary.MAGIC, layout)) == layout


def test_text_has_sorted_keys_and_no_spaces():
    text = LAYOUT.to_json().decode()
    assert text.startswith('{"abi":1,"batch_max":4,"deterministic":false,"input":{"offset":64,"stride":12,"width":3},')
    assert " " not in text


def test_attached_layout_replaces_the_one_before():
    once = attach_layout(binary.MAGIC, replace(LAYOUT, batch_max=2))
    assert attach_layout(once, LAYOUT) == attach_layout(binary.MAGIC, LAYOUT)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"abi": 2}, KernelError, "expected abi 1, found 2"),
        ({"batch_max": 0}, LimitError, "KERNEL_BATCH_MAX"),
        ({"batch_max": KERNEL_BATCH_MAX + 1}, LimitError, "KERNEL_BATCH_MAX"),
        ({"memory_bytes": 0}, LimitError, "KERNEL_MEMORY_BYTES_MAX"),
        ({"memory_bytes": KERNEL_MEMORY_BYTES_MAX + 1}, LimitError, "KERNEL_MEMORY_BYTES_MAX"),
        ({"topology": "AB" * 32}, KernelError, "topology: expected 64 hex digits"),
        ({"input": Rows(64, 12, 0)}, LimitError, "input.width.*KERNEL_WIDTH_MAX"),
        ({"output": Rows(128, 16, KERNEL_WIDTH_MAX + 1)}, LimitError, "output.width"),
        ({"input": Rows(64, 8, 3)}, KernelError, "input.stride: expected a multiple of 4, at least 12 bytes, found 8"),
        ({"input": Rows(64, 13, 3)}, KernelError, "input.stride"),
        ({"input": Rows(66, 12, 3)}, KernelError, "input.offset: expected a multiple of 64, found 66"),
        ({"input": Rows(-64, 12, 3)}, KernelError, "input.offset"),
        ({"output": Rows(65536, 16, 2)}, KernelError, "output: expected to end within 65536"),
        ({"output": Rows(64, 16, 2)}, KernelError, "expected apart"),
        ({"weights": Weights(128, 32, (2, 4))}, KernelError, "weights and output: expected apart"),
        ({"weights": Weights(192, 32, (2, 3))}, KernelError, "4 bytes a value, found 32 bytes for the shape"),
        ({"weights": Weights(192, 32, ())}, KernelError, "expected a shape of 1 to 8 axes"),
        ({"weights": Weights(192, 4, (1,) * 9)}, KernelError, "expected a shape of 1 to 8 axes"),
        ({"weights": Weights(192, 32, (-2, -4))}, KernelError, "expected a shape"),
    ],
)
def test_layout_refuses_what_breaks_an_invariant(change, error, text):
    with pytest.raises(error, match=text):
        replace(LAYOUT, **change)


def test_empty_weights_overlap_nothing():
    assert replace(LAYOUT, weights=Weights(64, 0, (0,))).weights.size == 0


def changed(path: str, value: object) -> bytes:
    tree = json.loads(LAYOUT.to_json())
    *parents, key = path.split(".")
    part = tree
    for parent in parents:
        part = part[parent]
    part[key] = value
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b"[1]", "expected the key"),
        (b"[" * 60_000, "expected JSON"),
        (b"9" * 60_000, "expected JSON"),
        (changed("batch_max", True), "layout.batch_max: expected int, found bool"),
        (changed("batch_max", 1.0), "expected JSON of whole numbers"),
        (changed("batch_max", float("nan")), "expected JSON of whole numbers"),
        (changed("batch_max", "4"), "expected int, found str"),
        (changed("batch_max", -1), "layout.batch_max: expected a whole number from 0"),
        (changed("memory_bytes", 1 << 60), "expected a whole number from 0"),
        (changed("deterministic", 1), "expected bool, found int"),
        (changed("input", 3), "layout.input: expected dict, found int"),
        (changed("input.width", None), "input.width: expected int, found NoneType"),
        (changed("weights.shape", [2, "4"]), "weights.shape.axis: expected int, found str"),
        (changed("weights.shape", [1] * 1000), "expected a shape of 1 to 8 axes"),
        (changed("topology", "x"), "topology: expected 64 hex"),
        (changed("further", 1), "no further keys"),
        (changed("input.further", 1), "no further keys"),
        (LAYOUT.to_json() + b" ", "no spaces"),
        (json.dumps(json.loads(LAYOUT.to_json()), sort_keys=True).encode(), "no spaces"),
    ],
)
def test_text_that_is_no_layout_is_a_kernel_error(content, text):
    with pytest.raises(KernelError, match=text):
        Layout.from_json(content)


def test_missing_keys_are_named():
    tree = json.loads(LAYOUT.to_json())
    for key in tree:
        rest = {name: value for name, value in tree.items() if name != key}
        with pytest.raises(KernelError, match=f"expected the key '{key}'"):
            Layout.from_json(json.dumps(rest).encode())


def test_module_must_hold_one_layout_and_no_imports():
    section = binary.custom_section("edgeswarm.kernel", LAYOUT.to_json())
    with pytest.raises(KernelError, match=r"a\.wasm: custom section 'edgeswarm.kernel': expected one, found 0"):
        read_layout(binary.MAGIC, who="a.wasm")
    with pytest.raises(KernelError, match="expected one, found 2"):
        read_layout(binary.MAGIC + section + section)
    with pytest.raises(KernelError, match="imports: expected none"):
        read_layout(binary.MAGIC + b"\x02\x01\x01" + section)
    assert read_layout(binary.MAGIC + b"\x02\x01\x00" + section) == LAYOUT
    with pytest.raises(KernelError, match="b.wasm: layout: expected JSON"):
        read_layout(binary.MAGIC + binary.custom_section("edgeswarm.kernel", b"{"), who="b.wasm")


def test_module_is_bounded_before_it_is_read():
    with pytest.raises(LimitError, match="KERNEL_WASM_BYTES_MAX"):
        read_layout(binary.MAGIC + bytes(KERNEL_WASM_BYTES_MAX))
    with pytest.raises(LimitError, match="KERNEL_LAYOUT_BYTES_MAX"):
        read_layout(binary.MAGIC + binary.custom_section("edgeswarm.kernel", bytes(KERNEL_LAYOUT_BYTES_MAX + 1)))
    with pytest.raises(LimitError, match="KERNEL_LAYOUT_BYTES_MAX"):
        Layout.from_json(bytes(KERNEL_LAYOUT_BYTES_MAX + 1))
    with pytest.raises(LimitError, match="KERNEL_WASM_ITEMS_MAX"):
        read_layout(binary.MAGIC + b"\0\x01\0" * (KERNEL_WASM_ITEMS_MAX + 1))


@pytest.mark.parametrize(
    "wasm",
    [
        b"",
        b"\0asm",
        b"\0asm\x0d\0\x01\0",  # a component
        binary.MAGIC + b"\x01",
        binary.MAGIC + b"\x01\xff\xff\xff\xff\xff\x01",
        binary.MAGIC + b"\x01\xff\xff\xff\xff\x1f",
        binary.MAGIC + b"\x01\x05\x00",
        binary.MAGIC + b"\x63\x00",
        binary.MAGIC + b"\x01\x01\x00\x01\x01\x00",
        binary.MAGIC + b"\x00\x02\x01\xff",
    ],
)
def test_bytes_that_are_no_module_are_a_kernel_error(wasm):
    with pytest.raises(KernelError):
        read_layout(wasm)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_leb128_reads_back(value):
    encoded = binary.unsigned(value)
    reader = binary.Reader(encoded, 0, len(encoded), "")
    assert reader.u32() == value
    reader.done()


@settings(max_examples=200)
@given(st.data())
def test_mutated_layouts_give_no_other_errors(data):
    raw = bytearray(attach_layout(binary.MAGIC, LAYOUT))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_layout(bytes(raw))
    except (KernelError, LimitError):
        pass
