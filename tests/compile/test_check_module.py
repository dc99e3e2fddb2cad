"""What `agent build --wasm` accepts: each rule of the ABI is broken once, and mutants raise nothing but our errors."""

from __future__ import annotations

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.compile import Layout, Rows, Weights, attach_layout, check_module, compile_mlp
from edgeswarm.compile import wasm as binary
from edgeswarm.errors import KernelError, LimitError
from edgeswarm.limits import KERNEL_WASM_ITEMS_MAX
from edgeswarm.model import random_mlp

LAYOUT = Layout(
    batch_max=1,
    deterministic=True,
    input=Rows(64, 4, 1),
    output=Rows(128, 4, 1),
    weights=Weights(192, 0, (0,)),
    memory_bytes=65536,
    topology="0" * 64,
)
MEMORY = '(memory (export "memory") 1 1)'
RUN = '(func (export "run"))'
BATCH = '(func (export "run_batch") (param i32))'


def module(*parts: str, layout: Layout = LAYOUT) -> bytes:
    return attach_layout(bytes(wasmtime.wat2wasm(f"(module {' '.join(parts)})")), layout)


@pytest.mark.parametrize(
    "parts",
    [
        (MEMORY, RUN, BATCH),
        ('(memory (export "memory") 1)', RUN, BATCH),
        (MEMORY, RUN, BATCH, '(table 3 funcref) (global (mut i32) (i32.const 0)) (data (i32.const 0) "x")'),
        (MEMORY, RUN, BATCH, '(func (export "also") (param f64 v128) (result i64) (i64.const 0))'),
        ("(type (func (param externref funcref)))", MEMORY, RUN, BATCH),
        (MEMORY, '(func $both (param i32)) (export "run_batch" (func $both)) (export "same" (func $both))', RUN),
    ],
)
def test_modules_that_keep_the_abi_are_accepted(parts):
    assert check_module(module(*parts)) == LAYOUT


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (('(import "a" "b" (func))', MEMORY, RUN, BATCH), "imports: expected none"),
        ((RUN, BATCH), "memory: expected one, found 0"),
        (("(memory 1 1)", RUN, BATCH), r"exported as 'memory', found the exports \[\]"),
        (('(memory (export "mem") 1 1)', RUN, BATCH), r"found the exports \['mem'\]"),
        (('(memory (export "memory") (export "again") 1 1)', RUN, BATCH), r"\['again', 'memory'\]"),
        ((MEMORY, "(memory 1 1)", RUN, BATCH), "memory: expected one, found 2"),
        (('(memory (export "memory") i64 1 1)', RUN, BATCH), "unshared 32-bit memory"),
        (('(memory (export "memory") 1 1 shared)', RUN, BATCH), "unshared 32-bit memory"),
        (('(memory (export "memory") 0 1)', RUN, BATCH), "expected at least the layout's 65536 bytes"),
        ((MEMORY, BATCH), r"export 'run': expected a function \(\) -> \(\), found none"),
        ((MEMORY, RUN), r"export 'run_batch': expected a function \(i32\) -> \(\), found none"),
        ((MEMORY, '(func (export "run") (param i32))', BATCH), "export 'run': expected the type"),
        ((MEMORY, '(func (export "run") (result i32) (i32.const 0))', BATCH), "export 'run': expected the type"),
        ((MEMORY, RUN, '(func (export "run_batch") (param i64))'), "export 'run_batch': expected the type"),
        ((MEMORY, '(global (export "run") i32 (i32.const 0))', BATCH), "export 'run': expected a function"),
        ((MEMORY, RUN, BATCH, "(func $s) (start $s)"), "start function: expected none"),
        (("(type (struct))", MEMORY, RUN, BATCH), "expected a function type"),
        (("(type (func (param (ref func))))", MEMORY, RUN, BATCH), "expected value types"),
    ],
)
def test_modules_that_break_a_rule_are_refused(parts, text):
    with pytest.raises(KernelError, match=text) as caught:
        check_module(module(*parts), who="x.wasm")
    assert "x.wasm" in str(caught.value)


@pytest.mark.parametrize("limits", ["8193 8193", "1 8193", "65536"])
def test_memory_is_bounded(limits):
    with pytest.raises(LimitError, match="KERNEL_MEMORY_BYTES_MAX"):
        check_module(module(f'(memory (export "memory") {limits})', RUN, BATCH))


def section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + binary.unsigned(len(content)) + content


@pytest.mark.parametrize(
    "content",
    [
        section(binary.MEMORY, b"\x01\x01\x02\x01"),  # maximum below minimum
        section(binary.EXPORT, b"\x02\x01a\x00\x00\x01a\x00\x00"),  # one name twice
        section(binary.EXPORT, b"\x01\x01\xff\x00\x00"),  # no UTF-8
        section(binary.TYPE, b"\x01\x60\x00\x00\x00"),  # bytes behind the last type
        section(binary.FUNCTION, b"\x05\x00"),  # fewer than it says
    ],
)
def test_sections_that_contradict_themselves_are_refused(content):
    with pytest.raises(KernelError):
        check_module(attach_layout(binary.MAGIC + content, LAYOUT))


def test_exports_past_the_functions_and_types_are_refused():
    exports = b"\x03\x06memory\x02\x00\x03run\x00\x00\x09run_batch\x00\x07"
    head = section(binary.FUNCTION, b"\x01\x05") + section(binary.MEMORY, b"\x01\x01\x01\x01")
    wasm = attach_layout(binary.MAGIC + head + section(binary.EXPORT, exports), LAYOUT)
    with pytest.raises(KernelError, match="export 'run': expected a function"):
        check_module(wasm)


@pytest.mark.parametrize("kind", [binary.TYPE, binary.FUNCTION, binary.MEMORY, binary.EXPORT])
def test_counts_are_bounded_before_they_are_looped_over(kind):
    content = binary.unsigned(KERNEL_WASM_ITEMS_MAX + 1)
    with pytest.raises(LimitError, match="KERNEL_WASM_ITEMS_MAX"):
        check_module(attach_layout(binary.MAGIC + section(kind, content), LAYOUT))


def test_generated_kernels_keep_the_abi():
    for mode in ("fast", "deterministic"):
        kernel = compile_mlp(random_mlp([3, 5, 2], "sigmoid", "softmax"), batch_max=9, mode=mode)
        assert check_module(kernel.wasm) == kernel.layout
        assert kernel.layout.deterministic == (mode == "deterministic")


KERNEL = compile_mlp(random_mlp([2, 3, 1], "relu"), batch_max=2).wasm
HEAD = KERNEL.index(b"\x0a", KERNEL.index(b"run_batch"))  # everything before the code: what is parsed here


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutants_of_a_kernel_give_no_other_errors(data):
    """Bytes changed, cut out or put in, before the code and in the layout behind it."""
    raw = bytearray(KERNEL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, HEAD), st.integers(len(raw) - 330, len(raw) - 1)))
        match data.draw(st.integers(0, 3)):
            case 0:
                raw[at] = data.draw(st.integers(0, 255))
            case 1:
                del raw[at : at + data.draw(st.integers(1, 8))]
            case 2:
                raw[at:at] = data.draw(st.binary(max_size=8))
            case 3:
                del raw[at + 1 :]
        if len(raw) < 400:
            break
    try:
        check_module(bytes(raw))
    except (KernelError, LimitError):
        pass
