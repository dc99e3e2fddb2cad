"""A plot with two logarithmic axes as SVG, written by hand: no library is worth having for four lines."""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 216, 64, 56
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#7b4b94", "#b08900")


class Plot:
    """Lines of positive numbers; both axes in powers of ten."""

    def __init__(self, title: str, subtitle: str, x_name: str) -> None:
        self._title, self._subtitle, self._x_name = title, subtitle, x_name
        self._lines: list[tuple[str, list[tuple[float, float]]]] = []

    def line(self, name: str, points: list[tuple[float, float]]) -> None:
        self._lines.append((name, [(x, y) for x, y in points if x > 0 and y > 0]))

    def svg(self) -> str:
        xs = [x for _, points in self._lines for x, _ in points]
        ys = [y for _, points in self._lines for _, y in points]
        low_x, high_x = _decades(xs)
        low_y, high_y = _decades(ys)

        def place(x: float, y: float) -> tuple[float, float]:
            across = (math.log10(x) - low_x) / (high_x - low_x)
            up = (math.log10(y) - low_y) / (high_y - low_y)
            return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            f'<text x="{LEFT}" y="24" font-size="16" fill="#222">{escape(self._title)}</text>',
            f'<text x="{LEFT}" y="44" font-size="11" fill="#555">{escape(self._subtitle)}</text>',
        ]
        for power in range(low_x, high_x + 1):
            x, bottom = place(10.0**power, 10.0**low_y)
            out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="#e3e3e3"/>')
            out.append(_label(x, bottom + 18, _number(power), "middle"))
        for power in range(low_y, high_y + 1):
            left, y = place(10.0**low_x, 10.0**power)
            out.append(f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e3e3e3"/>')
            out.append(_label(left - 8, y + 4, _number(power), "end"))
        out.append(_label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, self._x_name, "middle"))
        for index, (name, points) in enumerate(self._lines):
            colour = COLOURS[index % len(COLOURS)]
            places = [place(x, y) for x, y in points]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            for (x, y), (_, value) in zip(places, points, strict=True):
                out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
                out.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" font-size="10" fill="{colour}">{value:.3g}</text>')
            y = TOP + 16 + 22 * index
            out.append(f'<rect x="{WIDTH - RIGHT + 28}" y="{y - 9}" width="12" height="12" fill="{colour}"/>')
            out.append(f'<text x="{WIDTH - RIGHT + 46}" y="{y + 1}" font-size="12" fill="#222">{escape(name)}</text>')
        return "\n".join([*out, "</svg>", ""])


def _decades(values: list[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _number(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="#555" text-anchor="{anchor}">{escape(text)}</text>'
