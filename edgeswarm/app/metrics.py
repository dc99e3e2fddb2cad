"""Counters, gauges and histograms, kept in plain lists; shown as numbers and as Prometheus text (exposition 0.0.4).

Written here because importing prometheus_client costs 11 MB of resident memory (measured), of 60 that the supervisor
may use. Histogram buckets are powers of two of a microsecond: 1 µs to 2^26 µs (67 s), so that an observation is one
bit_length.
"""

from __future__ import annotations

from collections.abc import Iterator

BUCKETS = 27


class Histogram:
    """Times in nanoseconds; bucket i counts those of at most 2^i µs."""

    __slots__ = ("buckets", "count", "sum_ns")

    def __init__(self) -> None:
        self.buckets = [0] * (BUCKETS + 1)
        self.count = 0
        self.sum_ns = 0

    def observe(self, elapsed_ns: int) -> None:
        self.count += 1
        self.sum_ns += elapsed_ns
        self.buckets[min(max(0, (elapsed_ns - 1) // 1000).bit_length(), BUCKETS)] += 1

    def quantile_us(self, q: float) -> float:
        """Upper estimate in µs, linear inside the bucket; 0 when empty.  0 < q <= 1."""
        wanted, seen = q * self.count, 0
        for index, count in enumerate(self.buckets):
            if count and seen + count >= wanted:
                low = 0.0 if index == 0 else float(1 << (index - 1))
                return low + (float(1 << index) - low) * (wanted - seen) / count
            seen += count
        return 0.0

    def summary(self) -> dict[str, float]:
        return {
            "count": self.count,
            "mean_us": round(self.sum_ns / self.count / 1000, 1) if self.count else 0.0,
            "p50_us": round(self.quantile_us(0.5), 1),
            "p99_us": round(self.quantile_us(0.99), 1),
        }


Sample = tuple[str, str, dict[str, str], float]
"""(name, type, labels, value)"""


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""

    def escape(text: str) -> str:
        return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{k}="{escape(v)}"' for k, v in labels.items()) + "}"


def prometheus(samples: Iterator[Sample], histograms: Iterator[tuple[str, dict[str, str], Histogram]]) -> str:
    """The text format.  Samples of one name must come as one run (the format wants them together)."""
    lines: list[str] = []
    typed: set[str] = set()
    for name, kind, labels, value in samples:
        if name not in typed:
            typed.add(name)
            lines.append(f"# TYPE {name} {kind}")
        lines.append(
            f"{name}{_labels(labels)} {value:g}" if value != int(value) else f"{name}{_labels(labels)} {int(value)}"
        )
    for name, labels, histogram in histograms:
        if name not in typed:
            typed.add(name)
            lines.append(f"# TYPE {name} histogram")
        total = 0
        for index, count in enumerate(histogram.buckets[:-1]):
            total += count
            lines.append(f"{name}_bucket{_labels({**labels, 'le': f'{(1 << index) / 1e6:g}'})} {total}")
        lines.append(f"{name}_bucket{_labels({**labels, 'le': '+Inf'})} {histogram.count}")
        lines.append(f"{name}_sum{_labels(labels)} {histogram.sum_ns / 1e9:.9g}")
        lines.append(f"{name}_count{_labels(labels)} {histogram.count}")
    return "\n".join(lines) + "\n"
