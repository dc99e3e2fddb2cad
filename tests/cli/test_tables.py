"""Tables of numbers: what is read is what was written, and what is wrong is named by row and column."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeswarm.app.cli import tables, tables_out
from edgeswarm.errors import EdgeSwarmError, InputError, LimitError, LocalError
from edgeswarm.limits import TABLE_LINE_BYTES_MAX

ROWS = [[1.0, -2.5], [3.25, 0.0], [1e-20, 3e38]]


def read(path: Path, width: int, *, kind: str | None = None, rows_max: int = 2) -> list[list[float]]:
    found: list[list[float]] = []
    with tables.open_rows(str(path), width=width, kind=kind) as reader:
        for batch in reader.batches(rows_max):
            assert batch.first == len(found) + 1
            assert 1 <= batch.rows <= rows_max
            values = array("f", batch.payload)
            assert len(values) == batch.rows * width
            found += [list(values[i * width : (i + 1) * width]) for i in range(batch.rows)]
            assert batch.progress <= reader.size
    return found


def pack(rows: list[list[float]]) -> bytes:
    return b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)


def float32(rows: list[list[float]]) -> list[list[float]]:
    return [list(array("f", row)) for row in rows]


def text_of(tmp_path: Path, name: str, text: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "1,-2.5\n3.25,0\n1e-20,3e38\n",
        "a,b\n1,-2.5\n3.25,0\n1e-20,3e38",
        "\ufeffcpu,mem\r\n1, -2.5\r\n\r\n3.25,0\r\n1e-20,3e38\r\n",
        '"1","-2.5"\n3.25,0\n1e-20,3e38\n\n',
    ],
)
def test_csv_is_read_with_and_without_header_and_empty_lines(tmp_path: Path, text: str) -> None:
    assert read(text_of(tmp_path, "x.csv", text), 2) == float32(ROWS)


def test_jsonl_is_read_as_arrays_and_as_objects_with_values(tmp_path: Path) -> None:
    text = '[1, -2.5]\n\n{"values": [3.25, 0], "label": "x"}\n[1e-20, 3e38]\n'
    assert read(text_of(tmp_path, "x.jsonl", text), 2) == float32(ROWS)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "i4", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_read_in_every_numeric_dtype_and_order(tmp_path: Path, dtype: str, order: str) -> None:
    rows = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [13, 14, 15]]
    np.save(tmp_path / "x.npy", np.array(rows, dtype=dtype, order=order))  # type: ignore[call-overload]
    assert read(tmp_path / "x.npy", 3) == rows


def test_npy_of_one_axis_is_a_column(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3.0))
    assert read(tmp_path / "x.npy", 1) == [[0.0], [1.0], [2.0]]


def test_tables_without_rows_are_empty_not_wrong(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((0, 2)))
    assert read(tmp_path / "x.npy", 2) == []
    assert read(text_of(tmp_path, "x.csv", "a,b\n"), 2) == []
    assert read(text_of(tmp_path, "x.jsonl", ""), 2) == []


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 5).flatmap(
        lambda w: st.lists(st.lists(FINITE, min_size=w, max_size=w), min_size=1, max_size=9)
    ),
    kind=st.sampled_from(tables.FORMATS),
    rows_max=st.integers(1, 4),
)
def test_what_is_written_is_read_back_bit_by_bit(
    tmp_path: Path, rows: list[list[float]], kind: str, rows_max: int
) -> None:
    path, width = tmp_path / f"t.{kind}", len(rows[0])
    with tables_out.create_rows(str(path), width=width) as writer:
        for at in range(0, len(rows), rows_max):
            piece = rows[at : at + rows_max]
            writer.write(pack(piece), len(piece))
    assert pack(read(path, width)) == pack(rows)
    if kind == "npy":
        assert np.load(path).tobytes() == pack(rows)
    else:
        assert len(path.read_text().splitlines()) == len(rows)


def npy(header: str, *, version: int = 2, size: int | None = None) -> bytes:
    """A .npy file of 64 zeros; `size`: what it says of its header's length."""
    length = len(header) if size is None else size
    return b"\x93NUMPY" + struct.pack("<BBI", version, 0, length) + header.encode() + bytes(64)


BAD = [
    ("x.csv", "1,2\n3\n", "row 2 (line 2): expected 2 values, found 1"),
    ("x.csv", "1,2,3\n", "row 1 (line 1): expected 2 values, found 3"),
    ("x.csv", "a,b\n1,x\n", "row 1 (line 2): column 2: expected a number, found 'x'"),
    ("x.csv", "a,1\n", "row 1 (line 1): column 1: expected a number, found 'a'"),
    ("x.csv", "a,b\nc,d\n", "row 1 (line 2): column 1: expected a number, found 'c'"),
    ("x.csv", "1,2\n3,nan\n", "row 2 (line 2): column 2: expected a finite float32, found nan"),
    ("x.csv", "1,2\n\n-inf,1\n", "row 2 (line 3): column 1: expected a finite float32, found -inf"),
    ("x.csv", "1e39,2\n", "row 1 (line 1): column 1: expected a finite float32, found 1e+39"),
    ("x.csv", b"1,2\n\xff,3\n", "line 2: expected UTF-8"),
    ("x.csv", '1,2\n"3,4\n', "line 2: expected CSV"),
    ("x.jsonl", "[1,2]\n[1,2\n", "row 2 (line 2): expected JSON"),
    ("x.jsonl", '[1,"2"]\n', 'row 1 (line 1): column 2: expected a number, found "2"'),
    ("x.jsonl", "[1,true]\n", "row 1 (line 1): column 2: expected a number, found true"),
    ("x.jsonl", "[1,[2]]\n", "row 1 (line 1): column 2: expected a number, found [2]"),
    ("x.jsonl", "[1,NaN]\n", "row 1 (line 1): column 2: expected a finite float32, found nan"),
    ("x.jsonl", "[1,1" + "0" * 400 + "]\n", "row 1 (line 1): column 2: expected a number"),
    ("x.jsonl", "3\n", "row 1 (line 1): expected an array"),
    ("x.jsonl", '{"value": [1,2]}\n', 'object with the key "values"'),
    ("x.jsonl", "[" * 100_000 + "\n", "row 1 (line 1): expected JSON"),
    ("x.npy", b"\x93NUMPX", "expected a .npy file"),
    ("x.npy", b"\x93NUMPY\x01\x00\x10\x00{}", "expected a .npy header"),
    ("x.npy", b"\x93NUMPY\x09\x00\x10\x00{}", "expected a .npy header"),
    ("x.npy", npy("{'descr':'<f4','fortran_order':False,'shape':(2,2)}", version=9), "the version"),
    ("x.npy", npy("{'descr':'<f4',", size=0xFFFF_FFFF), "expected a .npy header"),
    ("x.npy", npy("{'descr':'<f4','fortran_order':False,'shape':(True,2)}"), "values of float32"),
    ("x.npy", npy("{'descr':'<f4','fortran_order':False,'shape':(10**9,2)}"), "expected a .npy header"),
    ("x.npy", npy("{'descr':'<f4','fortran_order':False,'shape':(-4,2)}"), "values of float32"),
    ("x.npy", npy(f"{{'descr':'<f4','fortran_order':False,'shape':({10**30},2)}}"), "values of float32"),
    ("x.npy", b"", "expected a .npy file"),
]


@pytest.mark.parametrize(("name", "content", "expected"), BAD)
def test_a_bad_table_is_an_input_error_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    path = text_of(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        read(path, 2)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("array_", "expected"),
    [
        (np.zeros((2, 3)), "expected the shape (rows, 2), found (2, 3)"),
        (np.zeros(4), "expected the shape (rows, 2), found (4,)"),
        (np.zeros((1, 2, 1)), "expected the shape (rows, 2)"),
        (np.zeros((2, 2), dtype=complex), "found the dtype complex128"),
        (np.array([["a", "b"]]), "found the dtype <U1"),
        (np.array([[1, 2], [3, np.nan]]), "row 2: column 2: expected a finite float32, found nan"),
        (np.array([[1, 2], [3e39, 2]]), "row 2: column 1: expected a finite float32, found 3e+39"),
    ],
)
def test_a_bad_array_is_an_input_error_with_its_place(tmp_path: Path, array_: np.ndarray, expected: str) -> None:
    np.save(tmp_path / "x.npy", array_)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x.npy", 2)
    assert expected in str(caught.value)


def test_a_pickle_in_a_npy_file_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[{}, {}]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="dtype object"):
        read(tmp_path / "x.npy", 2)


def test_a_truncated_npy_file_is_an_input_error(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((100, 2)))
    os.truncate(tmp_path / "x.npy", 900)
    with pytest.raises(InputError, match="expected .100, 2. values"):
        read(tmp_path / "x.npy", 2)


def test_a_row_past_the_bound_is_refused_before_it_is_held(tmp_path: Path) -> None:
    path = text_of(tmp_path, "x.csv", "1," * TABLE_LINE_BYTES_MAX)
    with pytest.raises(LimitError, match="TABLE_LINE_BYTES_MAX"):
        read(path, 2)
    path = text_of(tmp_path, "y.csv", ('"' + "\n" * 1000 + '",') * (TABLE_LINE_BYTES_MAX // 1000))
    with pytest.raises(LimitError, match="TABLE_LINE_BYTES_MAX"):
        read(path, 2)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), kind=st.sampled_from(tables.FORMATS), magic=st.booleans())
def test_any_bytes_give_rows_or_an_error_of_ours(tmp_path: Path, content: bytes, kind: str, magic: bool) -> None:
    path = tmp_path / "any"
    path.write_bytes((tables.NPY_MAGIC if magic and kind == "npy" else b"") + content)
    try:
        read(path, 2, kind=kind)
    except EdgeSwarmError:
        pass  # what else a file of noise may be


def test_a_file_that_is_not_there_and_one_of_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "x.csv", 2)
    with pytest.raises(LocalError, match="--input-format"):
        read(tmp_path / "x.dat", 2)


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old\n")
    with pytest.raises(InputError), tables_out.create_rows(str(path), width=1) as writer:
        writer.write(struct.pack("<f", 1.0), 1)
        raise InputError("row 2 is bad")
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_full_disk_is_told_with_the_rows_written() -> None:
    with (
        pytest.raises(LocalError, match=r"/dev/full.*after 2 rows"),
        tables_out.create_rows("/dev/full", width=1, kind="csv") as writer,
    ):
        writer.write(struct.pack("<2f", 1.0, 2.0), 2)


def test_an_output_folder_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(LocalError, match="No such file"),
        tables_out.create_rows(str(tmp_path / "a" / "x.csv"), width=1),
    ):
        raise AssertionError("not reached")


def test_standard_input_and_output(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1,2]\n")))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    with tables.open_rows("-", width=2, kind="jsonl") as reader, tables_out.create_rows("-", width=2) as writer:
        assert reader.size == 0
        for batch in reader.batches(8):
            writer.write(batch.payload, batch.rows)
    assert out.getvalue() == b"1,2\n"
    with pytest.raises(LocalError, match="written to files only"), tables_out.create_rows("-", width=2, kind="npy"):
        raise AssertionError("not reached")
    with pytest.raises(LocalError, match="read from files only"), tables.open_rows("-", width=2, kind="npy"):
        raise AssertionError("not reached")


def test_jsonl_output_is_json(tmp_path: Path) -> None:
    with tables_out.create_rows(str(tmp_path / "x.jsonl"), width=3) as writer:
        writer.write(struct.pack("<3f", 1e-30, -0.0, 1e30), 1)
    assert json.loads((tmp_path / "x.jsonl").read_text()) == pytest.approx([1e-30, 0.0, 1e30])


def test_the_command_line_reads_csv_without_numpy() -> None:
    import subprocess

    code = (
        "import sys; import edgeswarm.app.cli.tables, edgeswarm.app.cli.tables_out; assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
