"""The picture of an agent's policy beside the best one: how often each wants shares, by the hidden signal."""

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.charts import Chart, nice_ticks

Floats = NDArray[np.float64]

_STYLE = (
    "<style>svg{background:#fff;font:12px system-ui,sans-serif}text{fill:#333}.grid{stroke:#ddd}"
    ".axis,.zero{stroke:#888}.line{stroke-width:2;fill:none}.flat{stroke:#2563eb}.long{stroke:#c2410c}"
    ".best{stroke-dasharray:6 4;stroke-width:1.5}</style>"
)
_TICKS = 9


def policy_picture(
    title: str, edges: Floats, shares: dict[str, dict[str, Floats]], tick_scale: float, unit: str
) -> str:
    """An SVG file: for each policy, the share of decisions that want shares, when flat and when long.

    Args:
        title: what the picture shows.
        edges: (k + 1,) float64, of the bins of the signal.
        shares: policy name -> `oracle_policy.long_shares`; the first is drawn dashed, as the best policy.
        tick_scale: the axis shows the signal times this.
        unit: behind the numbers of the axis.
    """
    middles = (edges[1:] + edges[:-1]) / 2
    chart = Chart(title, x=(float(edges[0]), float(edges[-1])), y=(-0.04, 1.04), margins=(40, 20, 30, 60))
    chart.y_axis(lambda value: f"{value:.0%}", [0.0, 0.25, 0.5, 0.75, 1.0])
    ticks = nice_ticks(float(edges[0]) * tick_scale, float(edges[-1]) * tick_scale, _TICKS)
    chart.x_axis([(tick / tick_scale, f"{tick:g}{unit}") for tick in ticks])
    for place, (name, found) in enumerate(shares.items()):
        for held in ("flat", "long"):
            known = np.isfinite(found[held])
            style = f"line {held}{' best' if place == 0 else ''}"
            if known.any():
                chart.line(middles[known], found[held][known], style)
            chart.legend(f"{name}, {held}", style)
    drawn = str(chart.svg()).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, rest = drawn.split(">", 1)
    return f"{head}>{_STYLE}{rest}\n"
