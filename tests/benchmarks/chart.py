"""Line charts as SVG, light or dark as the reader's page is."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 380
"""Of the picture without its legend, which has a line for each series below."""
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 40, 50
LINE = 22
COLOURS = {
    "light": ("#0072b2", "#d55e00", "#007a5a", "#a8538a", "#8a6d00", "#4a4a4a", "#1b9ed8"),
    "dark": ("#56b4e9", "#f5853f", "#2bc79a", "#e29bc6", "#f0c52e", "#b8b8b8", "#9ad7ff"),
}
INK = {"light": ("#ffffff", "#1f2328", "#d9dde2"), "dark": ("#0d1117", "#e6edf3", "#363c45")}
"""Ground, text and grid."""

Points = Sequence[tuple[float, float]]


def line_chart(
    title: str, x_label: str, y_label: str, series: Mapping[str, Points], *, log_x: bool = False, log_y: bool = False
) -> str:
    """An SVG document: a line through the (x, y) of each series, by its name; at most seven. Logarithms are of > 0."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_ticks = sorted(set(xs)) if len(set(xs)) <= 8 else _ticks(min(xs), max(xs), log=log_x)
    y_ticks = _ticks(min(ys) if log_y else 0, max(ys), log=log_y)
    across = _scale(min(*xs, *x_ticks), max(*xs, *x_ticks), LEFT, WIDTH - RIGHT, log=log_x)
    up = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP, log=log_y)
    drawn = [f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>']
    for tick in y_ticks:
        y = up(tick)
        drawn.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text class="end" x="{LEFT - 8}" y="{y + 4:.1f}">{short(tick)}</text>')
    below = HEIGHT - BOTTOM + 20
    drawn += [f'<text class="middle" x="{across(tick):.1f}" y="{below}">{short(tick)}</text>' for tick in x_ticks]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    drawn.append(f'<text class="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}">{escape(x_label)}</text>')
    drawn.append(f'<text class="middle" transform="translate(16 {middle}) rotate(-90)">{escape(y_label)}</text>')
    for number, (name, points) in enumerate(series.items()):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        drawn.append(f'<polyline class="line c{number}" points="{path}"/>')
        if len(points) <= 30:
            drawn += [f'<circle class="c{number}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3"/>' for x, y in points]
        y = HEIGHT + 10 + LINE * number
        drawn.append(f'<path class="line c{number}" d="M{LEFT} {y}h22"/>')
        drawn.append(f'<text x="{LEFT + 30}" y="{y + 4}">{escape(name)}</text>')
    height, body = HEIGHT + 10 + LINE * len(series), "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n<title>{escape(title)}'
        f"</title>\n<style>\ntext {{ font: 13px system-ui, sans-serif }} .title {{ font-weight: 600; font-size: 15px }}"
        "\n.middle { text-anchor: middle } .end { text-anchor: end } .line { fill: none; stroke-width: 2 }"
        f"\n{_theme('light')}\n@media (prefers-color-scheme: dark) {{ {_theme('dark')} }}\n</style>\n"
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>\n{body}\n</svg>\n'
    )


def short(number: float) -> str:
    """The number as an axis or a table shows it: 10 M, 2,500, 12.3, 0.05."""
    number = round(number, 6)
    if number and number % 1e6 == 0:
        return f"{number / 1e6:g} M"
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    if log:
        ends = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [step * 10.0**power for power in ends for step in ((1, 2, 5) if len(ends) <= 4 else (1,))]
        first = max((n for n, tick in enumerate(ticks) if tick <= low), default=0)
        last = next((n for n, tick in enumerate(ticks) if tick >= high and n > first), len(ticks) - 1)
        return ticks[first : last + 1]
    rough = (high - low or 1) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    return [step * n for n in range(math.floor(low / step), math.ceil((high or 1) / step) + 1)]


def _scale(low: float, high: float, start: float, end: float, *, log: bool) -> Callable[[float], float]:
    """Where a value of an axis lies between two places."""
    of: Callable[[float], float] = math.log10 if log else float
    span = of(high) - of(low) or 1.0
    return lambda value: start + (end - start) * (of(value) - of(low)) / span


def _theme(name: str) -> str:
    ground, ink, grid = INK[name]
    colours = " ".join(f".c{n} {{ stroke: {c} }} circle.c{n} {{ fill: {c} }}" for n, c in enumerate(COLOURS[name]))
    return f".ground {{ fill: {ground} }} text {{ fill: {ink} }} .grid {{ stroke: {grid} }} {colours}"
