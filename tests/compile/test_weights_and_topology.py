"""Weights live outside the code: one topology gives one wasm, and packing loses nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm.compile import compile_mlp, pack_weights, read_layout, schedule_mlp, unpack_weights
from edgeswarm.errors import LimitError, LocalError, ModelError
from edgeswarm.model import ACTIVATIONS, random_mlp, random_rows


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 70), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_unpack_is_the_inverse_of_pack(sizes, seed):
    net = random_mlp(sizes, "tanh", "softmax", seed)
    packed = pack_weights(net, schedule_mlp(net).layout)
    again = unpack_weights(packed, net.sizes, net.activations)
    assert again.activations == net.activations
    for a, b in zip(again.layers, net.layers, strict=True):
        assert (a.weights == b.weights).all() and (a.bias == b.bias).all()
    assert pack_weights(again, schedule_mlp(net).layout) == packed


@pytest.mark.parametrize("mode", ["fast", "deterministic"])
def test_one_topology_gives_one_wasm_whatever_the_weights(mode):
    a = compile_mlp(random_mlp([20, 30, 7], "relu", "softmax", seed=1), mode=mode)
    b = compile_mlp(random_mlp([20, 30, 7], "relu", "softmax", seed=2), mode=mode)
    assert a.wasm == b.wasm and a.layout == b.layout and a.weights != b.weights
    assert read_layout(a.wasm) == a.layout
    assert np.frombuffer(a.weights[:64], np.uint8).tobytes() not in a.wasm


def test_every_fact_of_the_topology_changes_its_hash():
    net = random_mlp([4, 8, 3], "relu", "linear")
    kernels = [
        compile_mlp(net),
        compile_mlp(net, mode="deterministic"),
        compile_mlp(net, arch="aarch64"),
        compile_mlp(net, batch_max=255),
        compile_mlp(random_mlp([4, 7, 3], "relu", "linear")),
        compile_mlp(random_mlp([4, 8, 3], "tanh", "linear")),
        compile_mlp(random_mlp([4, 8, 3], "relu", "softmax")),
    ]
    assert len({kernel.layout.topology for kernel in kernels}) == len(kernels)
    assert len({kernel.wasm for kernel in kernels}) == len(kernels)


def test_another_process_compiles_the_same_bytes():
    code = (
        "import hashlib; from edgeswarm.model import random_mlp; from edgeswarm.compile import compile_mlp; "
        "k = compile_mlp(random_mlp([13, 21, 4], 'sigmoid', 'softmax', 3)); "
        "print(hashlib.sha256(k.wasm + k.weights).hexdigest())"
    )
    kernel = compile_mlp(random_mlp([13, 21, 4], "sigmoid", "softmax", 3))
    env = {"PYTHONHASHSEED": "7", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == hashlib.sha256(kernel.wasm + kernel.weights).hexdigest()


def test_swapped_weights_change_the_answers_of_a_running_kernel(load):
    a = random_mlp([6, 9, 2], "tanh", "linear", seed=1)
    b = random_mlp([6, 9, 2], "tanh", "linear", seed=2)
    rows = random_rows(5, 6)
    kernel = compile_mlp(a)
    runner = load(kernel)
    first = runner.many(rows)
    runner.set_weights(pack_weights(b, kernel.layout))
    assert (runner.many(rows) == load(compile_mlp(b)).many(rows)).all()
    runner.set_weights(kernel.weights)
    assert (runner.many(rows) == first).all()


def test_weights_of_another_topology_are_refused():
    layout = compile_mlp(random_mlp([6, 9, 2], "tanh", "linear")).layout
    for other in (random_mlp([6, 9, 3], "tanh"), random_mlp([6, 9, 2], "relu"), random_mlp([6, 10, 2], "tanh")):
        with pytest.raises(ModelError, match="expected the widths and activations that the kernel of topology"):
            pack_weights(other, layout)
    with pytest.raises(ModelError):
        pack_weights(random_mlp([6, 9, 2], "tanh"), replace(layout, deterministic=True))


def test_unpack_refuses_what_does_not_fit():
    net = random_mlp([3, 4, 2])
    packed = pack_weights(net, schedule_mlp(net).layout)
    with pytest.raises(ModelError, match=r"expected 192 bytes for a model 3-4-2 \(sigmoid, linear\), found 191"):
        unpack_weights(packed[:-1], net.sizes, net.activations)
    with pytest.raises(ModelError, match="activations: expected 2, found 1"):
        unpack_weights(packed, net.sizes, ["relu"])
    with pytest.raises(ModelError, match="expected one of linear"):
        unpack_weights(packed, net.sizes, ["relu", "swish"])
    with pytest.raises(LimitError, match="LAYERS_MAX"):
        unpack_weights(packed, [3], [])
    with pytest.raises(ModelError, match="expected finite"):
        unpack_weights(b"\xff" * len(packed), net.sizes, net.activations)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"batch_max": 0}, LimitError, "KERNEL_BATCH_MAX"),
        ({"batch_max": 5000}, LimitError, "KERNEL_BATCH_MAX"),
        ({"mode": "exact"}, LocalError, "expected one of fast, deterministic, found 'exact'"),
        ({"arch": "mips"}, LocalError, "expected one of aarch64, x86-64, found 'mips'"),
    ],
)
def test_options_are_checked(options, error, text):
    with pytest.raises(error, match=text):
        compile_mlp(random_mlp([2, 2]), **options)


def test_memory_is_bounded_and_the_error_says_what_helps():
    net = random_mlp([40_000, 1])
    assert schedule_mlp(net).layout.memory_bytes < 64 << 20
    with pytest.raises(
        LimitError, match="KERNEL_MEMORY_BYTES_MAX.*with batch_max 4096; a smaller batch_max needs less"
    ):
        schedule_mlp(net, batch_max=4096)


def test_code_stays_small():
    sizes = {
        "4-8-3": len(compile_mlp(random_mlp([4, 8, 3])).wasm),
        "784-128-64-32-10": len(compile_mlp(random_mlp([784, 128, 64, 32, 10])).wasm),
        "64 equal layers": len(compile_mlp(random_mlp([64] * 65)).wasm),
        "10 different layers": len(compile_mlp(random_mlp(list(range(20, 108, 8)))).wasm),
        "one row only": len(compile_mlp(random_mlp([784, 128, 64, 32, 10]), batch_max=1).wasm),
    }
    assert all(size <= 52 << 10 for size in sizes.values()), sizes
    assert sizes["one row only"] < sizes["784-128-64-32-10"]


def test_schedule_prints_as_a_table():
    net = random_mlp([784, 128, 10], "relu", "softmax")
    table = """
mlp 784-128-10, deterministic, x86-64: batch 256 in blocks of 32, 408128 bytes of weights, \
831488 of activations, 1245184 of memory
  0 dense         784 -> 128: 8 x 4 columns at 832512, x at 1024, y at 816128
  1 relu          128 values, row of 512 bytes at 816128
  2 dense         128 -> 10: 3 columns at 1234432, x at 816128, y at 803840
  3 softmax       10 values, row of 48 bytes at 803840
  4 canonical_nan 10 values, row of 48 bytes at 803840"""
    assert str(schedule_mlp(net, mode="deterministic")) == table.strip()


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=2, max_size=6),
    output=st.sampled_from(ACTIVATIONS),
    batch_max=st.integers(1, 300),
    arch=st.sampled_from(["x86-64", "aarch64"]),
)
def test_regions_never_overlap_and_steps_follow_each_other(sizes, output, batch_max, arch):
    net = random_mlp(sizes, "relu", output)
    schedule = schedule_mlp(net, batch_max=batch_max, arch=arch)
    steps, layout = schedule.steps, schedule.layout
    assert steps[0].x == layout.input and steps[-1].y == layout.output
    assert all(after.x == before.y for before, after in pairwise(steps))
    scratch = {step.y.offset: step.y.stride for step in steps if step.y != layout.output}
    regions = sorted(layout.regions().values())
    regions += [(offset, offset + schedule.block_rows * stride) for offset, stride in scratch.items()]
    regions.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(regions))
    assert regions[-1][1] <= layout.memory_bytes and layout.memory_bytes % 65536 == 0
    assert all(getattr(step, "weights", 0) % 64 == 0 for step in steps)
