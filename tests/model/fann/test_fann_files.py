"""FANN's .net files: every field kept, the same bytes written, and nothing believed that the file does not hold."""

from __future__ import annotations

import random
import re
import tracemalloc

import numpy as np
import pytest
from fann_nets import NAMES, SETS, SMALL, net_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeswarm import limits
from edgeswarm.errors import LimitError, ModelError
from edgeswarm.model.fann import section
from edgeswarm.model.fann.convert import convert
from edgeswarm.model.fann.net import equal
from edgeswarm.model.fann.parse import is_fann, parse
from edgeswarm.model.fann.write import write

BASE = net_bytes("trained")


def with_line(data: bytes, key: str, text: str) -> bytes:
    """`data` with another value behind `key=`."""
    found, count = re.subn(rf"(?m)^{re.escape(key)}=.*$", f"{key}={text}".replace("\\", ""), data.decode())
    assert count == 1
    return found.encode()


@pytest.mark.parametrize("name", sorted({*NAMES, *SETS}))
def test_what_libfann_wrote_comes_back_byte_for_byte(name: str) -> None:
    data = net_bytes(name)
    net = parse(data)
    assert write(net) == data
    kept = section.encode(section.imported(data))
    assert section.decode(kept).file == data
    assert equal(section.decode(kept).net, net)
    assert name not in SETS or len(kept) < len(data) / 2.5


@pytest.mark.parametrize("name", NAMES)
def test_the_quick_way_through_connections_gives_what_the_careful_one_gives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = net_bytes(name)
    monkeypatch.setattr("edgeswarm.model.fann.parse._PIECE_CHARS", 300)
    quick = parse(data)
    monkeypatch.setattr("edgeswarm.model.fann.parse._quick", lambda *_: None)
    assert equal(parse(data), quick)


def test_every_field_is_there() -> None:
    net = parse(net_bytes("scaled"))
    assert (net.version, net.layer_sizes, net.inputs, net.outputs) == ("FANN_FLO_2.1", (4, 6, 3), 3, 2)
    assert net.count("training_algorithm") == 2
    assert net.parameters["quickprop_decay"] == -0.0001
    assert net.counts("cascade_activation_functions") == (3, 5, 7, 8, 10, 11, 14, 15, 16, 17)
    assert net.scaled and net.reals("scale_mean_in").shape == (3,) and net.reals("scale_factor_out").shape == (2,)
    fixed = parse(net_bytes("fixed"))
    assert fixed.fixed and fixed.multiplier == 1 << fixed.count("decimal_point") and not fixed.scaled


def test_fields_that_older_releases_did_not_write_stay_away() -> None:
    lines = [
        line
        for line in BASE.decode().split("\n")
        if not line.startswith(("rprop_delta_zero", "cascade_min", "scale_inc"))
    ]
    old = "\n".join(lines).replace("FANN_FLO_2.1", "FANN_FLO_2.0").encode()
    assert write(parse(old)) == old


def test_other_spellings_read_and_are_kept_as_they_are() -> None:
    for other in (
        BASE.replace(b"\n", b"\r\n"),
        BASE.replace(b"learning_rate=0.700000", b"learning_rate=.7"),
        BASE + b"\n",
    ):
        item = section.imported(other)
        assert equal(item.net, parse(BASE))
        assert section.decode(section.encode(item)).file == other
        assert write(item.net) == BASE


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8), st.sampled_from(["f4", "f8"])
)
@settings(max_examples=60, deadline=None)
def test_every_weight_survives_text_and_section(values: list[float], kind: str) -> None:
    net = parse(BASE)
    with np.errstate(over="ignore"):
        array = np.resize(np.array(values, kind).astype(np.float64), len(net.weights))
    array = np.where(np.isfinite(array), array, 0.0)
    data = write(
        type(net)(net.version, net.parameters, net.num_inputs, net.activations, net.steepness, net.sources, array)
    )
    assert parse(data).weights.tobytes() == array.tobytes()
    assert section.decode(section.encode(section.imported(data))).file == data


# --- what does not hold ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("num_layers", "4294967296", "line 2: num_layers: expected a whole number from 0 to 4294967295"),
        ("num_layers", "4294967295", "line 2: num_layers: at most 1025 (SHORTCUT_LAYERS_MAX + 1), found 4294967295"),
        ("num_layers", "4", "layer_sizes: expected 4 numbers (num_layers), found 3"),
        ("num_layers", "-3", "line 2: num_layers: expected a whole number"),
        ("learning_rate", "nan", "line 3: learning_rate: expected a finite number, found 'nan'"),
        ("learning_rate", "0,700000", "line 3: learning_rate: expected a number with a decimal point, not a comma"),
        ("learning_rate", "1e999", "line 3: learning_rate: expected a number that a double can hold"),
        ("network_type", "2", "network_type: expected 0 (layered) or 1 (shortcut), found 2"),
        ("connection_rate", "-1.0", "connection_rate: expected 0 or more"),
        ("cascade_activation_functions_count", "4294967295", "FANN_CASCADE_CHOICES_MAX"),
        ("cascade_activation_functions_count", "3", "cascade_activation_functions: expected 3 numbers"),
        ("layer_sizes", "3 6 60000 ", "layer_sizes: expected at most"),
        ("layer_sizes", "3 6 4000000000 ", "layer_sizes[2]: at most 65537 (LAYER_WIDTH_MAX + 1), found 4000000000"),
        ("layer_sizes", "3 0 2 ", "layer_sizes[1]: expected 1 or more"),
        ("layer_sizes", "1 6 2 ", "layer_sizes[0]: expected 2 or more, bias neurons among them, found 1"),
        ("layer_sizes", "3 6 3 ", "neurons: expected 12 neurons (layer_sizes), found 11"),
        ("layer_sizes", "3 5 3 ", "neuron"),
        ("scale_included", "1", "scale_mean_in: expected scale_mean_in= after scale_included=1"),
        ("scale_included", "7", "scale_included: expected 0 or 1, found 7"),
        ("bit_fail_limit", "0x10", "bit_fail_limit: expected a finite number"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line(key: str, text: str, says: str) -> None:
    with pytest.raises((ModelError, LimitError)) as caught:
        parse(with_line(BASE, key, text), who="x.net")
    assert says in str(caught.value)
    assert str(caught.value).startswith("x.net: line ")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"FANN_FLO_2.1", b"FANN_FLO_1.1", "line 1: version: expected one of FANN_FLO_2.0"),
        (b"num_layers=3\n", b"", "line 2: num_layers: expected num_layers="),
        (b"=(0, 0, 0.0", b"=(1, 0, 0.0", "neurons[0].num_inputs: expected 0 in the input layer"),
        (b"(3, 4, 5.0", b"(3, 99, 5.0", "activation_function: expected a whole number from 0 to 19, found '99'"),
        (b"(3, 4, 5.0", b"(3, 4, -5.0", "activation_steepness: expected 0 or more"),
        (b"(3, 4, 5.0", b"(4294967295, 4, 5.0", "num_inputs: expected a whole number from 0 to 2147483647"),
        (b"(3, 4, 5.0", b"(2147483647, 4, 5.0", "connections (the num_inputs of all neurons)"),
        (b"weight)=(0, ", b"weight)=(1, ", "connections[0].connected_to_neuron: expected 0, since connection_rate=1"),
        (b"weight)=(0, ", b"weight)=(-1, ", "connections[0].connected_to_neuron: expected a whole number from 0 to 10"),
        (b"weight)=(0, ", b"weight)=(8, ", "connections[0].connected_to_neuron: expected a neuron of a layer before"),
        (b"weight)=(0, ", b"weight)=(0, nan) (0, ", "connections[0].weight: expected a finite number, found 'nan'"),
        (b"weight)=(0, ", b"weight)=(0, 1e999) (0, ", "connections[0].weight: expected a number that a double"),
        (b"weight)=(0, ", b"weight)=(0 ", "connections: expected items of the form (connected_to_neuron, weight)"),
        (b"weight)=(0, ", b"weight)=(0, 1.0) (0, ", "connections: expected 21 connections"),
        (b"\nneurons", b"\n\xffneurons", "text: expected ASCII text, found the byte 0xff"),
    ],
)  # fmt: skip
def test_a_wrong_piece_is_named_with_its_line(old: bytes, new: bytes, says: str) -> None:
    assert BASE.count(old) >= 1
    with pytest.raises(ModelError) as caught:
        parse(BASE.replace(old, new, 1))
    assert says in str(caught.value)
    assert str(caught.value).startswith("line ")


def test_a_fixed_point_file_holds_whole_numbers() -> None:
    fixed = net_bytes("fixed")
    for key, text, says in [
        ("decimal_point", "31", "FANN_DECIMAL_POINT_MAX"),
        ("bit_fail_limit", "0.35", "expected a whole number of 32 bits"),
        ("bit_fail_limit", "4294967295", "expected a whole number of 32 bits"),
    ]:
        with pytest.raises((ModelError, LimitError), match=says):
            parse(with_line(fixed, key, text))


def test_a_cut_file_is_refused_wherever_it_is_cut() -> None:
    for at in [*range(0, len(BASE) - 2, 37), len(BASE) - 4]:
        with pytest.raises(ModelError):
            parse(BASE[:at])


def test_a_file_past_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeswarm.model.fann.parse.FANN_FILE_BYTES_MAX", 1000)
    with pytest.raises(LimitError, match="at most 1000 bytes"):
        parse(BASE)
    assert limits.FANN_FILE_BYTES_MAX == 128 << 20


def test_declared_sizes_cost_no_memory() -> None:
    """Sizes of gigabytes in a file of two kilobytes: refused with less memory than a few copies of the file."""
    for key, text in [("layer_sizes", "65000 65000 65000 "), ("cascade_activation_functions_count", "1000")]:
        tracemalloc.start()
        with pytest.raises((ModelError, LimitError)):
            parse(with_line(BASE, key, text))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200_000


def test_a_sparse_net_that_is_huge_as_layers_is_refused() -> None:
    """4,000 neurons, each with one connection: 150 KB of text would be 16 million weights."""
    neuron, count = "(0, 0, 0.0) ", 4000
    text = BASE.decode().split("\nneurons")[0] + "\n"
    text = with_line(
        with_line(text.encode(), "layer_sizes", f"{count} {count + 1} 2 "), "connection_rate", "0.1"
    ).decode()
    neurons = neuron * count + "(1, 5, 0.5) " * count + neuron + "(1, 5, 0.5) " + neuron
    connections = "".join(f"({index}, 0.5) " for index in range(count)) + f"({count}, 0.5) "
    text += f"neurons (num_inputs, activation_function, activation_steepness)={neurons}\n"
    text += f"connections (connected_to_neuron, weight)={connections}\n"
    net = parse(text.encode())
    with pytest.raises(LimitError, match="FANN_SPARSE_RATIO_MAX"):
        convert(net)


NASTY = (b"nan", b"-inf", b"1e999", b"-0", b"-1", b"", b"4294967295", b"99999999999", b"0x1", b"1_0", b"(", b")",
         b" ", b"\x00", b"\xff", b"=", b"\n", b"9" * 500, b"0", b"1", b"65536", b"3.5")  # fmt: skip


def mutant(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to three things broken."""
    for _ in range(rng.randint(1, 3)):
        match rng.randrange(6):
            case 0:
                at = rng.randrange(len(data) or 1)
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[: rng.randrange(len(data) or 1)]
            case 2:
                lines = data.split(b"\n")
                del lines[rng.randrange(len(lines))]
                data = b"\n".join(lines)
            case 3:
                lines = data.split(b"\n")
                lines.insert(rng.randrange(len(lines)), rng.choice(lines))
                data = b"\n".join(lines)
            case _:
                numbers = list(re.finditer(rb"[-+0-9.e]+", data))
                if numbers:
                    early = rng.random() < 0.5  # half of them among the parameters
                    found = rng.choice(numbers[:60] if early else numbers)
                    data = data[: found.start()] + rng.choice(NASTY) + data[found.end() :]
    return data


@pytest.mark.parametrize("name", [*SMALL, "thyroid_cascade2_final"])
def test_a_mutant_is_refused_or_is_a_net(name: str) -> None:
    """200 of each: either an error of ours with a line, or a net that comes back from its own text and section."""
    data, rng = net_bytes(name), random.Random(name)
    for _ in range(200):
        broken = mutant(data, rng)
        try:
            net = parse(broken)
        except (ModelError, LimitError) as error:
            assert str(error).startswith("line ") or "FANN_FILE" in str(error)
            continue
        assert equal(parse(write(net)), net)
        assert section.decode(section.encode(section.imported(broken))).file == broken
        try:
            convert(net)
        except (ModelError, LimitError):
            continue


@pytest.mark.parametrize("name", ["sparse", "fixed", "scaled", "cascade"])
def test_a_mutant_section_is_refused_or_is_a_net(name: str) -> None:
    data, rng = section.encode(section.imported(net_bytes(name))), random.Random(name)
    for _ in range(200):
        try:
            item = section.decode(mutant(data, rng))
        except (ModelError, LimitError):
            continue
        assert equal(section.decode(section.encode(item)).net, item.net)


def test_a_net_is_known_by_its_first_bytes() -> None:
    assert is_fann(BASE) and is_fann(net_bytes("fixed")) and not is_fann(b"PK\3\4") and not is_fann(b"")
