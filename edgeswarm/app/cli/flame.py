"""A flame graph as SVG, written by hand: frames stand on the frame that called them, as wide as the time they took.

Left to right is the order of computing.  No script and nothing to load: a browser shows each frame's full text when
the pointer rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from edgeswarm.app.cli import output

WIDTH, MARGIN, ROW = 1200, 12, 22
TOP, BOTTOM = 58, 34
FONT, LETTER = 12, 6.9  # of a letter of that size, on the wide side
NARROWEST = 0.3  # below it a frame is left out: a model of a thousand layers stays a small file
COLOURS = ("#f2b35e", "#e98a5b", "#dd6b66", "#b98bd0", "#7fa7d9", "#6fbfae", "#9cc56c", "#d9c25c", "#c9a183", "#a3adb8")


@dataclass(frozen=True, slots=True)
class Frame:
    """text: what fits is written on it.  value: its width, at least its children's together.  kind: its colour."""

    text: str
    value: float
    kind: str
    detail: str = ""
    children: Sequence[Frame] = field(default=())


def svg(title: str, subtitle: str, root: Frame) -> str:
    """The picture.  Kinds get colours in the order in which they come; a legend names all but the root's,
    with the share of the root's children that are of it."""
    depth = _depth(root)
    kinds = list(dict.fromkeys(_kinds(root)))
    colours = {kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(kinds)}
    named = {kind: colours[kind] for kind in kinds[1:]}
    shares = {kind: sum(frame.value for frame in root.children if frame.kind == kind) for kind in named}
    entries = [(f"{kind} {_percent(shares[kind], root.value)}", named[kind]) for kind in named if shares[kind]]
    legend = list(_legend(entries, TOP + depth * ROW + 20))
    height = TOP + depth * ROW + BOTTOM + (legend[-1][1] if legend else 0)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Verdana, sans-serif" font-size="{FONT}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fffdf8"/>',
        f'<text x="{MARGIN}" y="24" font-size="16" fill="#222">{_safe(title)}</text>',
        f'<text x="{MARGIN}" y="44" fill="#666">{_safe(subtitle)}</text>',
    ]
    per_unit = (WIDTH - 2 * MARGIN) / root.value if root.value > 0 else 0.0
    out += _frames(root, float(MARGIN), TOP + (depth - 1) * ROW, per_unit, colours, root.value)
    out += [text for text, _ in legend]
    return "\n".join([*out, "</svg>", ""])


def _depth(frame: Frame) -> int:
    return 1 + max((_depth(child) for child in frame.children), default=0)


def _kinds(frame: Frame) -> Iterator[str]:
    yield frame.kind
    for child in frame.children:
        yield from _kinds(child)


def _frames(frame: Frame, x: float, y: int, per_unit: float, colours: dict[str, str], whole: float) -> Iterator[str]:
    width = frame.value * per_unit
    if width < NARROWEST:
        return
    share = _percent(frame.value, whole)
    full = ", ".join(part for part in (frame.text, frame.detail, share) if part)
    yield (
        f'<g><title>{_safe(full)}</title><rect x="{x:.2f}" y="{y}" width="{max(width - 0.5, NARROWEST):.2f}" '
        f'height="{ROW - 1}" rx="1.5" fill="{colours[frame.kind]}"/>'
    )
    if text := _fitting(frame, share, width - 6):
        yield f'<text x="{x + 3:.2f}" y="{y + 15}" fill="#1c1c1c">{_safe(text)}</text>'
    yield "</g>"
    for child in frame.children:
        yield from _frames(child, x, y - ROW, per_unit, colours, whole)
        x += child.value * per_unit


def _fitting(frame: Frame, share: str, room: float) -> str:
    """As much of the frame's text as fits, whole words where that leaves two of them; its first word at least."""
    letters, words = int(room / LETTER), frame.text.split()
    for text in (", ".join(part for part in (frame.text, frame.detail, share) if part), frame.text):
        if len(text) <= letters:
            return text
    for count in range(len(words) - 1, 1, -1):
        if len(text := " ".join(words[:count])) <= letters:
            return text
    return words[0] if words and len(words[0]) <= letters else ""


def _legend(entries: Sequence[tuple[str, str]], y: int) -> Iterator[tuple[str, int]]:
    """entries: text and colour.  Gives (picture, how far below the first line it stands)."""
    x, line = float(MARGIN), 0
    for text, colour in entries:
        width = 22 + LETTER * len(text) + 14
        if x + width > WIDTH - MARGIN and x > MARGIN:
            x, line = float(MARGIN), line + 18
        square = f'<rect x="{x:.1f}" y="{y + line - 10}" width="12" height="12" rx="1.5" fill="{colour}"/>'
        yield f'{square}<text x="{x + 17:.1f}" y="{y + line}" fill="#444">{_safe(text)}</text>', line
        x += width


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole > 0 else ""


def _safe(text: str) -> str:
    """Names come from agent files: no control characters (XML allows none), and no markup."""
    return escape(output.plain(text))
