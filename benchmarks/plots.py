"""Plots as SVG text: bars with the spread of the runs, and curves. No library: two shapes, readable in light and in dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 210, 90, 30, 40
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#c53030", "#4a5568")


def bars(title: str, rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """One bar a system: the median of its runs, with a line from the smallest to the largest. The first is ours."""
    largest = max((max(values) for _, values in rows), default=0) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / largest
    parts = []
    for place, (name, values) in enumerate(rows):
        y, middle = TOP + place * ROW, median(values)
        colour = COLOURS[0] if place == 0 else COLOURS[-1]
        low, high, centre = LEFT + min(values) * scale, LEFT + max(values) * scale, y + ROW / 2 - 3
        parts += [
            _text(LEFT - 8, centre + 4, name, "end"),
            f'<rect x="{LEFT}" y="{y}" width="{max(1.0, middle * scale):.1f}" height="{ROW - 8}" fill="{colour}"/>',
            f'<line x1="{low:.1f}" y1="{centre}" x2="{high:.1f}" y2="{centre}" stroke="#111" stroke-width="2"/>',
            _text(high + 8, centre + 4, f"{middle:,.4g}"),
        ]
    return _svg(title, TOP + len(rows) * ROW + 10, parts)


def lines(title: str, curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> str:
    """One curve a system, both axes from zero."""
    height, low, floor = 360, 60, 320
    right = max(x for _, points in curves for x, _ in points) or 1.0
    top = max(y for _, points in curves for _, y in points) or 1.0
    across, up = (WIDTH - low - 220) / right, (floor - TOP) / top
    parts = [
        f'<path d="M{low} {TOP} V{floor} H{low + right * across:.1f}" fill="none" stroke="#888"/>',
        _text(low - 6, TOP + 4, f"{top:,.3g}", "end"),
        _text(low - 6, floor + 4, "0", "end"),
        _text(low + right * across, floor + 18, f"{right:,.4g}", "end"),
    ]
    for place, (name, points) in enumerate(curves):
        colour = COLOURS[place % len(COLOURS)]
        path = " ".join(f"{low + x * across:.1f},{floor - y * up:.1f}" for x, y in points)
        y = TOP + 14 + place * 20
        parts += [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<rect x="{WIDTH - 205}" y="{y - 9}" width="10" height="10" fill="{colour}"/>',
            _text(WIDTH - 190, y, name),
        ]
    return _svg(title, height, parts)


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="13">'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return "\n".join([head, ground, _text(12, 22, title), *parts, "</svg>"]) + "\n"
