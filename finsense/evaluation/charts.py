"""Small SVG charts drawn on the server: axes, ticks, legend, lines, areas, bars and markers; no library, no network."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

# Characters that XML 1.0 forbids even when escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Shape = Literal["up", "down", "dot"]
# The tip of a triangle touches the point, so that buys hang below a price and sells stand above it.
_SHAPES: dict[Shape, str] = {
    "up": "m0 1l4.5 8h-9z",
    "down": "m0-1l4.5-8h-9z",
    "dot": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
}


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 x a power of ten) within [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        raise ValueError(f"ticks need a finite range with low < high, found {low} and {high}")
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis; low > 0."""
    if high / low < 10.0:
        return nice_ticks(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]


def padded(
    values: NDArray[np.float64], *, share: float = 0.05, zero: bool = False, least: float = 1.0
) -> tuple[float, float]:
    """A range around finite values with some air, at least `least` wide to each side where all are equal.

    `zero` keeps 0 inside, and no air beyond it where it is the edge.
    """
    low, high = float(values.min()), float(values.max())
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return low - least, high + least
    air = (high - low) * share
    return low - (0.0 if zero and low == 0.0 else air), high + (0.0 if zero and high == 0.0 else air)


def decimate(values: NDArray[Any], columns: int) -> NDArray[np.int64]:
    """Indices (k,) of the points that a line of that many pixel columns can show: each column's lowest and highest.

    At most 2 x columns + 2 of them, rising, the first and the last always among them.
    """
    if len(values) <= 2 * columns:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), columns + 1).astype(np.int64)
    kept = {0, len(values) - 1}
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values[start:stop]
        kept.add(start + int(part.argmin()))
        kept.add(start + int(part.argmax()))
    return np.array(sorted(kept), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Figure:
    """A finished chart for the page: the SVG and what a pointer over it reads out.

    Attributes:
        hover: {"x": positions in SVG units, "labels": [...], "series": [[name, [text, ...]], ...]} or None.
    """

    title: str
    note: str
    svg: Markup
    hover: dict[str, Any] | None = None


class Chart:
    """One SVG drawing with a plot area; data units in, SVG units out.

    Args:
        title: what the chart shows, read out by screen readers.
        x: range of the horizontal axis in data units.
        y: range of the vertical axis; both positive when `log`.
    """

    def __init__(
        self,
        title: str,
        *,
        x: tuple[float, float],
        y: tuple[float, float],
        width: int = 920,
        height: int = 270,
        margins: tuple[int, int, int, int] = (10, 14, 26, 92),
        log: bool = False,
    ) -> None:
        self._top, right, bottom, self._left = margins
        self._right, self._bottom = width - right, height - bottom
        self._x, self._y, self._log = x, y, log
        self._root = ElementTree.Element("svg", viewBox=f"0 0 {width} {height}", role="img")
        self._root.set("aria-label", _clean(title))
        self._legend_x = self._left

    @property
    def columns(self) -> int:
        """Width of the plot area in SVG units: how many columns of points it can tell apart."""
        return self._right - self._left

    def x_at(self, value: float) -> float:
        """Horizontal position of a value, in SVG units."""
        return self._left + (value - self._x[0]) / (self._x[1] - self._x[0]) * (self._right - self._left)

    def y_at(self, value: float) -> float:
        """Vertical position of a value, in SVG units."""
        low, high = self._y
        if self._log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self._bottom - (value - low) / (high - low) * (self._bottom - self._top)

    def y_axis(self, label: Callable[[float], str], ticks: Sequence[float] | None = None) -> None:
        """Horizontal grid lines with their labels."""
        for tick in ticks if ticks is not None else log_ticks(*self._y) if self._log else nice_ticks(*self._y):
            y = self.y_at(tick)
            self._line(self._left, y, self._right, y, "zero" if tick == 0.0 else "grid")
            self.text(self._left - 8, y + 4, label(tick), "tick", "end")

    def x_axis(self, ticks: Sequence[tuple[float, str]], *, grid: bool = False) -> None:
        """Ticks and labels below the plot; `grid` draws each as a line through it."""
        self._line(self._left, self._bottom, self._right, self._bottom, "axis")
        for value, label in ticks:
            x = self.x_at(value)
            self._line(x, self._top if grid else self._bottom, x, self._bottom + 4, "grid" if grid else "axis")
            # A label at the edge leans inwards, or it would leave the drawing.
            half = 3.2 * len(label)
            anchor = "end" if x + half > self._right + 12 else "start" if x - half < 2 else "middle"
            self.text(x, self._bottom + 18, label, "tick", anchor)

    def line(self, xs: NDArray[Any], ys: NDArray[Any], style: str) -> None:
        """A line through the points; `style` is its CSS class."""
        self._add("path", style, d=self._path(xs, ys), fill="none")

    def area(self, xs: NDArray[Any], ys: NDArray[Any], style: str, floor: float = 0.0) -> None:
        """The area between the points and a level."""
        base = _number(self.y_at(floor))
        first, last = _number(self.x_at(float(xs[0]))), _number(self.x_at(float(xs[-1])))
        self._add("path", style, d=f"M{first} {base}L{self._path(xs, ys)[1:]}L{last} {base}z")

    def bar(self, x: tuple[float, float], y: tuple[float, float], style: str, opacity: float = 1.0) -> None:
        """A rectangle between two values on each axis."""
        left, right = sorted((self.x_at(x[0]), self.x_at(x[1])))
        top, bottom = sorted((self.y_at(y[0]), self.y_at(y[1])))
        shape = {"x": left, "y": top, "width": max(right - left, 0.5), "height": max(bottom - top, 0.5)}
        extra = {} if opacity == 1.0 else {"fill-opacity": f"{opacity:.2f}"}
        self._add("rect", style, **{name: _number(value) for name, value in shape.items()}, **extra)

    def markers(self, xs: NDArray[Any], ys: NDArray[Any], shape: Shape, style: str) -> None:
        """One small shape per point, all in one path."""
        points = zip(xs.tolist(), ys.tolist(), strict=True)
        outline = "".join(f"M{_number(self.x_at(x))} {_number(self.y_at(y))}{_SHAPES[shape]}" for x, y in points)
        if outline:
            self._add("path", style, d=outline)

    def legend(self, label: str, style: str, kind: Literal["line", "bar"] | Shape = "line") -> None:
        """One more entry in the row above the plot (leave room for it in the top margin)."""
        x, y = self._legend_x, self._top - 18
        if kind == "line":
            self._line(x, y, x + 22, y, style)
        elif kind == "bar":
            self._add("rect", style, x=_number(x + 6), y=_number(y - 5), width="10", height="10")
        else:
            middle = y + {"up": -5, "down": 5, "dot": 0}[kind]
            self._add("path", style, d=f"M{_number(x + 11)} {_number(middle)}{_SHAPES[kind]}")
        self.text(x + 28, y + 4, label, "legend")
        self._legend_x += round(28 + 7.2 * len(label) + 22)

    def text(self, x: float, y: float, content: str, style: str, anchor: str = "start") -> None:
        """Words at a position in SVG units."""
        element = self._add("text", style, x=_number(x), y=_number(y))
        element.text = _clean(content)
        if anchor != "start":
            element.set("text-anchor", anchor)

    def svg(self) -> Markup:
        """The drawing, well-formed and escaped."""
        return Markup(ElementTree.tostring(self._root, encoding="unicode"))

    def _line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self._add("line", style, x1=_number(x1), y1=_number(y1), x2=_number(x2), y2=_number(y2))

    def _path(self, xs: NDArray[Any], ys: NDArray[Any]) -> str:
        points = zip(xs.tolist(), ys.tolist(), strict=True)
        return "M" + "L".join(f"{_number(self.x_at(x))} {_number(self.y_at(y))}" for x, y in points)

    def _add(self, tag: str, style: str, **attributes: str) -> ElementTree.Element:
        return ElementTree.SubElement(self._root, tag, {"class": style, **attributes})


def _number(value: float) -> str:
    """One decimal is a tenth of a pixel; more would only make the file larger."""
    return f"{value:.1f}".removesuffix(".0")


def _clean(content: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", content)
