"""Small SVG charts as text. Colours are CSS variables of the page, so that they follow its light or dark scheme."""

import math
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 480, 290
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40


def nice_ticks(low, high, count=5):
    """About ``count`` round numbers from low to high."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def label(value):
    """A tick's text: few digits, no trailing zeros, a real minus."""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "0" if text in ("-0", "0") else text.replace("-", "−")


def padded(values, share=0.06):
    """(low, high) around values with some air; a range of its own around a single value."""
    low, high = min(values), max(values)
    air = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - air, high + air


@dataclass
class Chart:
    """A chart under construction: axes are fixed first, marks are drawn in the order of the calls."""

    x_range: tuple
    y_range: tuple
    x_label: str
    y_label: str
    title: str  # read aloud by screen readers
    marks: list = field(default_factory=list)

    def x(self, value):
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def band(self, start, end, style):
        """A vertical stripe over the full height."""
        left = self.x(start)
        self.marks.append(
            f'<rect class="{style}" x="{left:.1f}" y="{TOP}" width="{max(self.x(end) - left, 0):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>'
        )

    def line(self, points, style):
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.marks.append(f'<polyline class="line {style}" points="{path}"/>')

    def spread(self, points, style):
        """The area between (x, low, high)."""
        upper = [f"{self.x(x):.1f},{self.y(high):.1f}" for x, _, high in points]
        lower = [f"{self.x(x):.1f},{self.y(low):.1f}" for x, low, _ in reversed(points)]
        self.marks.append(f'<polygon class="{style}" points="{" ".join(upper + lower)}"/>')

    def dots(self, points, style, radius=2.0):
        marks = "".join(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}"/>' for x, y in points)
        self.marks.append(f'<g class="{style}">{marks}</g>')

    def axes(self):
        parts = []
        for tick in nice_ticks(*self.y_range):
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label(tick)}</text>')
        for tick in nice_ticks(*self.x_range, count=6):
            x = self.x(tick)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label(tick)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(self.x_label)}</text>')
        centre = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text class="axis" x="12" y="{centre}" text-anchor="middle" transform="rotate(-90 12 {centre})">'
            f"{escape(self.y_label)}</text>"
        )
        return "".join(parts)

    def svg(self):
        bands = [mark for mark in self.marks if mark.startswith("<rect")]
        others = [mark for mark in self.marks if not mark.startswith("<rect")]
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}">'
            f"{''.join(bands)}{self.axes()}{''.join(others)}</svg>"
        )


def stacked_bars(bars, order, unit):
    """Horizontal stacked bars: ``bars`` name -> {part: value}, parts in ``order`` with classes ``part-NAME``."""
    row, gap, left, right = 34, 20, 66, 60
    height = len(bars) * (row + gap) + 4
    longest = max((sum(parts.values()) for parts in bars.values()), default=0) or 1.0
    scale = (WIDTH - left - right) / longest
    marks = []
    for number, (name, parts) in enumerate(bars.items()):
        top, at = number * (row + gap) + 4, float(left)
        marks.append(f'<text x="{left - 8}" y="{top + row / 2 + 4}" text-anchor="end">{escape(name)}</text>')
        for part in order:
            width = parts[part] * scale
            tip = f"{name}, {part}: {parts[part]:.2f} {unit}"
            marks.append(
                f'<rect class="part-{part}" x="{at:.1f}" y="{top}" width="{width:.1f}" height="{row}">'
                f"<title>{escape(tip)}</title></rect>"
            )
            at += width
        marks.append(f'<text x="{at + 6:.1f}" y="{top + row / 2 + 4}">{sum(parts.values()):.1f} {unit}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Seconds of an update by phase">'
        f"{''.join(marks)}</svg>"
    )
