"""Hand-written kernels for the tests of jails, and what is needed to run them."""

from __future__ import annotations

import hashlib
import platform
import struct
from dataclasses import replace
from pathlib import Path

from edgeswarm.compile import abi
from edgeswarm.drivers.jail_link import KernelSpec

ROOT = Path(__file__).resolve().parents[2]
SANDBOX = ROOT / "sandbox"
MAC_KEY = bytes(range(32))


def tells_ends() -> bool:
    """Whether this kernel tells how a process ended that others have reaped (PIDFD_GET_INFO, Linux 6.15)."""
    return tuple(map(int, platform.release().split(".")[:2])) >= (6, 15)


ADD, TRAP, SPIN, GROW, NAN, SCRIBBLE, SLOW, RECURSE, OUTSIDE, DIVIDE = (float(mood) for mood in range(10))
"""First value of an input row: what the moody kernel does with it.  ADD answers (weight * second, grown pages)."""

INPUT, OUTPUT, WEIGHTS = 0, 65_536, 131_008
WIDTH = 2

MOODY = f"""(module (memory (export "memory") 2 64)
 (global $grown (mut f32) (f32.const 0))
 (func $deeper (param $n i32) (result i32)
  (i32.add (call $deeper (i32.add (local.get $n) (i32.const 1))) (local.get $n)))
 (func $row (param $i i32) (local $in i32) (local $out i32) (local $mood f32) (local $n i32)
  (local.set $in (i32.mul (local.get $i) (i32.const {4 * WIDTH})))
  (local.set $out (i32.add (i32.const {OUTPUT}) (local.get $in)))
  (local.set $mood (f32.load (local.get $in)))
  (if (f32.eq (local.get $mood) (f32.const {TRAP})) (then (unreachable)))
  (if (f32.eq (local.get $mood) (f32.const {SPIN})) (then (loop $l (br $l))))
  (if (f32.eq (local.get $mood) (f32.const {RECURSE})) (then (drop (call $deeper (i32.const 1)))))
  (if (f32.eq (local.get $mood) (f32.const {OUTSIDE})) (then (f32.store (i32.const 0x7ffffff0) (f32.const 1))))
  (if (f32.eq (local.get $mood) (f32.const {DIVIDE})) (then
   (i32.store (local.get $out) (i32.div_s (i32.const 1) (i32.trunc_f32_s (f32.load offset=4 (local.get $in)))))))
  (if (f32.eq (local.get $mood) (f32.const {SLOW})) (then
   (local.set $n (i32.const 60000000))
   (loop $l (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $l (local.get $n)))))
  (if (f32.eq (local.get $mood) (f32.const {SCRIBBLE})) (then
   (f32.store (i32.const {WEIGHTS}) (f32.const -1)) (unreachable)))
  (if (f32.eq (local.get $mood) (f32.const {GROW})) (then
   (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))
   (global.set $grown (f32.add (global.get $grown) (f32.const 16)))))
  (f32.store (local.get $out) (f32.mul (f32.load (i32.const {WEIGHTS})) (f32.load offset=4 (local.get $in))))
  (if (f32.eq (local.get $mood) (f32.const {NAN})) (then
   (f32.store (local.get $out) (f32.div (f32.const 0) (f32.const 0)))))
  (f32.store offset=4 (local.get $out) (global.get $grown)))
 (func (export "run") (call $row (i32.const 0)))
 (func (export "run_batch") (param $n i32) (local $i i32)
  (loop $l (call $row (local.get $i)) (local.set $i (i32.add (local.get $i) (i32.const 1)))
   (br_if $l (i32.lt_u (local.get $i) (local.get $n))))))"""

LAYOUT = abi.Layout(
    batch_max=64,
    deterministic=True,
    input=abi.Rows(INPUT, 4 * WIDTH, WIDTH),
    output=abi.Rows(OUTPUT, 4 * WIDTH, WIDTH),
    weights=abi.Weights(WEIGHTS, 4, (1,)),
    memory_bytes=131_072,
    topology=hashlib.sha256(b"moody").hexdigest(),
)

# one input, one value of memory: answers (memory + input), which becomes the memory
COUNTER = f"""(module (memory (export "memory") 2)
 (func $row (param $i i32)
  (f32.store (i32.add (i32.const {OUTPUT}) (i32.mul (local.get $i) (i32.const 4)))
   (f32.add (f32.load (i32.mul (local.get $i) (i32.const 8)))
    (f32.load offset=4 (i32.mul (local.get $i) (i32.const 8))))))
 (func (export "run") (call $row (i32.const 0)))
 (func (export "run_batch") (param i32) (unreachable)))"""
COUNTER_LAYOUT = replace(LAYOUT, batch_max=1, output=abi.Rows(OUTPUT, 4, 1), weights=abi.Weights(WEIGHTS, 0, (0,)))

# rows far apart, three inputs, one output: their sum
STRIDED = f"""(module (memory (export "memory") 2)
 (func $row (param $i i32) (local $in i32)
  (local.set $in (i32.mul (local.get $i) (i32.const 64)))
  (f32.store (i32.add (i32.const {OUTPUT}) (i32.mul (local.get $i) (i32.const 16)))
   (f32.add (f32.load (local.get $in))
    (f32.add (f32.load offset=4 (local.get $in)) (f32.load offset=8 (local.get $in))))))
 (func (export "run") (call $row (i32.const 0)))
 (func (export "run_batch") (param $n i32) (local $i i32)
  (loop $l (call $row (local.get $i)) (local.set $i (i32.add (local.get $i) (i32.const 1)))
   (br_if $l (i32.lt_u (local.get $i) (local.get $n))))))"""
STRIDED_LAYOUT = replace(
    LAYOUT, input=abi.Rows(INPUT, 64, 3), output=abi.Rows(OUTPUT, 16, 1), weights=abi.Weights(WEIGHTS, 0, (0,))
)


def assemble(text: str, layout: abi.Layout = LAYOUT) -> bytes:
    import wasmtime

    return abi.attach_layout(bytes(wasmtime.wat2wasm(text)), layout)


def row(mood: float, value: float = 1.0) -> bytes:
    return struct.pack("<2f", mood, value)


def values(payload: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(payload) // 4}f", payload)


def moody_spec(code: bytes, *, slot: int = 0, weight: float = 2.0, deadline_ms: int = 300, **more: int) -> KernelSpec:
    return KernelSpec(slot, f"moody-{slot}", code, LAYOUT, struct.pack("<f", weight), deadline_ms=deadline_ms, **more)
