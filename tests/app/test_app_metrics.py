"""Numbers: histograms against a sorted list, Prometheus text against a parser of its grammar, a real GET."""

from __future__ import annotations

import asyncio
import math
import re
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from supervised import Bench, until

from edgeswarm.app import report
from edgeswarm.app.metrics import BUCKETS, Histogram, prometheus
from edgeswarm.drivers.metrics_http import REQUEST_BYTES_MAX, MetricsServer
from edgeswarm.errors import ConfigError
from edgeswarm.ids import AgentName

TOP_NS = (1 << (BUCKETS - 1)) * 1000


@given(st.lists(st.integers(0, TOP_NS), min_size=1, max_size=200), st.floats(0.001, 1.0))
def test_quantile_lies_in_the_bucket_of_the_one_in_a_sorted_list(elapsed_ns: list[int], q: float) -> None:
    """Buckets are powers of two of a microsecond, so the estimate is off by less than a factor of two."""
    histogram = Histogram()
    for one in elapsed_ns:
        histogram.observe(one)
    true_us = sorted(elapsed_ns)[max(0, math.ceil(q * len(elapsed_ns) - 1e-9) - 1)] / 1000
    found = histogram.quantile_us(q)
    high = 1 << max(0, math.ceil(true_us) - 1).bit_length()
    low = high // 2 if high > 1 else 0
    assert low <= found <= high


@given(st.lists(st.integers(0, TOP_NS * 4), max_size=100))
def test_buckets_count_and_sum_hold_every_observation(elapsed_ns: list[int]) -> None:
    histogram = Histogram()
    for one in elapsed_ns:
        histogram.observe(one)
    assert sum(histogram.buckets) == histogram.count == len(elapsed_ns)
    assert histogram.sum_ns == sum(elapsed_ns)
    summary = histogram.summary()
    assert 0 <= summary["p50_us"] <= summary["p99_us"]


@given(st.integers(0, BUCKETS - 2))
def test_bounds_of_a_bucket_are_inclusive_above(index: int) -> None:
    histogram = Histogram()
    histogram.observe((1 << index) * 1000)
    assert histogram.buckets[index] == 1
    histogram.observe((1 << index) * 1000 + 1)
    assert histogram.buckets[index + 1] == 1


def test_empty_histogram_is_zeros() -> None:
    assert Histogram().summary() == {"count": 0, "mean_us": 0.0, "p50_us": 0.0, "p99_us": 0.0}


# --- the text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/) --------------------

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (NaN|[+-]Inf|[-+0-9.e]+)")


def parse(text: str) -> tuple[dict[str, str], list[tuple[str, str, float]]]:
    """(name -> type, samples).  Checks the grammar: one TYPE per family, before its samples, which come as one run."""
    types: dict[str, str] = {}
    samples: list[tuple[str, str, float]] = []
    families: list[str] = []
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types and kind in ("counter", "gauge", "histogram")
            types[name] = kind
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        name, labels, value = found[1], found[2] or "", float(found[3])
        family = re.sub("_(bucket|sum|count)$", "", name) if types.get(name) is None else name
        assert family in types, line
        assert types[family] != "counter" or name.endswith("_total"), name
        if not families or families[-1] != family:
            assert family not in families, f"{family}: its samples do not come together"
            families.append(family)
        samples.append((name, labels, value))
    assert len(samples) == len({(name, labels) for name, labels, _ in samples})
    return types, samples


@given(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False))
def test_any_label_and_any_number_keep_the_grammar(label: str, value: float) -> None:
    label = label.replace("\r", "")
    text = prometheus(iter([("x_total", "counter", {"agent": label}, value)]), iter([]))
    [(name, _, found)] = parse(text)[1]
    assert name == "x_total" and found == pytest.approx(value, rel=1e-5)


@given(st.lists(st.integers(0, TOP_NS * 2), max_size=50))
def test_histogram_buckets_are_cumulative_and_end_with_the_count(elapsed_ns: list[int]) -> None:
    histogram = Histogram()
    for one in elapsed_ns:
        histogram.observe(one)
    _, samples = parse(prometheus(iter([]), iter([("h", {"agent": "a"}, histogram)])))
    buckets = [value for name, _, value in samples if name == "h_bucket"]
    assert buckets == sorted(buckets) and buckets[-1] == len(elapsed_ns)
    assert [value for name, _, value in samples if name == "h_count"] == [len(elapsed_ns)]
    bounds = [float(re.findall(r'le="([^"]+)"', labels)[0]) for name, labels, _ in samples if name == "h_bucket"]
    assert bounds == sorted(bounds) and bounds[-1] == math.inf


async def test_page_of_a_living_supervisor_keeps_the_grammar_and_the_numbers(bench: Bench) -> None:
    await bench.supervisor.deploy([("t", bench.mlp()), ("t", bench.bad("trap"))])
    for index in range(20):
        await bench.supervisor.flows.flows[AgentName("a")].offer(0, (0.1,) * 4, 0)
        await bench.supervisor.flows.flows[AgentName("bad")].offer(0, (float(index == 3),), 0)
    await bench.supervisor.flows.flows[AgentName("bad")].offer(0, (1.0, 2.0), 0)
    await until(lambda: bench.tally("a")["answered"] == 20 and bench.tally("bad")["answered"] == 19)
    types, samples = parse(report.metrics(bench.supervisor))
    values = {(name, labels): value for name, labels, value in samples}
    assert values[("edgeswarm_agent_rows_in_total", 'agent="a"')] == 20
    assert values[("edgeswarm_agent_lost", 'agent="a"')] == 0
    assert values[("edgeswarm_agent_rows_set_aside_total", 'agent="bad"')] == 1
    assert values[("edgeswarm_agent_set_aside_total", 'agent="bad",kind="fault"')] == 1
    assert values[("edgeswarm_agent_malformed_total", 'agent="bad",kind="width"')] == 1
    assert values[("edgeswarm_agent_sample_to_decision_seconds_count", 'agent="a"')] == 20
    assert values[("edgeswarm_supervisor_memory_bytes", "")] > 1 << 20
    assert all(value > 1 << 16 for (name, _), value in values.items() if name == "edgeswarm_jail_memory_bytes")
    assert types["edgeswarm_agent_queued"] == "gauge" and types["edgeswarm_jail_cpu_seconds_total"] == "counter"


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    server = MetricsServer(number, lambda: "# TYPE x gauge\nx 1\n")
    await server.start()
    yield number
    await server.close()


async def http(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_get_is_answered_with_the_text_and_its_length(port: int) -> None:
    for target in (b"/metrics", b"/", b"/metrics?x=1"):
        head, _, body = (await http(port, GET.replace(b"/metrics", target))).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK") and b"version=0.0.4" in head
        assert body == b"# TYPE x gauge\nx 1\n" and f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize(
    "request_",
    [
        GET.replace(b"/metrics", b"/secret"),
        GET.replace(b"GET", b"POST"),
        GET.replace(b"/metrics", b"/metrics/../etc/passwd"),
        GET.replace(b"GET", b"get"),
    ],
)
async def test_anything_else_is_not_found(port: int, request_: bytes) -> None:
    assert (await http(port, request_)).startswith(b"HTTP/1.1 404")


def garbage() -> Iterator[bytes]:
    yield b""
    yield b"\r\n\r\n"
    yield b"GET\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00"
    yield b"GET /metrics HTTP/1.1\r\n"
    yield b"GET /" + b"x" * (2 * REQUEST_BYTES_MAX) + b" HTTP/1.1\r\n\r\n"
    yield b"\0" * (8 * REQUEST_BYTES_MAX)


@pytest.mark.parametrize("request_", list(garbage()), ids=range(7))
async def test_what_is_no_request_is_hung_up_on_and_the_next_one_answered(port: int, request_: bytes) -> None:
    assert await http(port, request_) == b""
    assert (await http(port, GET)).startswith(b"HTTP/1.1 200")


async def test_port_that_is_taken_is_said_and_port_zero_is_off(port: int) -> None:
    with pytest.raises(ConfigError, match=f"metrics.port: cannot listen on 127.0.0.1:{port}"):
        await MetricsServer(port, str).start()
    off = MetricsServer(0, str)
    await off.start()
    await off.close()
