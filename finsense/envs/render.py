"""Pictures and lines of a running episode."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from finsense.envs.core import TradingCore
from finsense.market.bars import ist_text


class EpisodeRecord:
    """What an episode looked like so far, one entry per bar."""

    def __init__(self, core: TradingCore) -> None:
        self.symbol = core.tape.symbols[int(core.envs["symbol"][0])]
        self.times: list[int] = []
        self.closes: list[float] = []
        self.equity: list[float] = []
        self.positions: list[int] = []
        self.fills: list[int] = []
        self.append(core)

    def append(self, core: TradingCore) -> None:
        """Note the bar at which the core's only env stands; rupees and shares."""
        bar = int(core.envs["bar"][0])
        account = core.accounts[0]
        self.times.append(int(core.tape.times[bar]))
        self.closes.append(int(core.tape.markets["close_paise"][bar]) / 100)
        self.equity.append(int(account["equity_paise"]) / 100)
        self.positions.append(int(account["position"]))
        self.fills.append(int(account["fill_quantity"] + account["stop_fill_quantity"]))


def status_line(record: EpisodeRecord) -> str:
    """The last bar in one line of text."""
    return (
        f"{ist_text(record.times[-1])} {record.symbol} close {record.closes[-1]:.2f} "
        f"fill {record.fills[-1]:+d} position {record.positions[-1]} equity {record.equity[-1]:.2f}"
    )


def draw_episode(record: EpisodeRecord) -> NDArray[np.uint8]:
    """Price with trades above, equity below: (height, width, 3) uint8."""
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    price, equity = figure.subplots(2, 1, sharex=True)
    bars = np.arange(len(record.closes))
    fills, closes = np.array(record.fills), np.array(record.closes)
    price.plot(bars, closes, color="0.3", linewidth=1)
    price.scatter(bars[fills > 0], closes[fills > 0], marker="^", color="tab:blue", label="bought", zorder=3)
    price.scatter(bars[fills < 0], closes[fills < 0], marker="v", color="tab:orange", label="sold", zorder=3)
    price.set_title(f"{record.symbol}, {ist_text(record.times[0])} to {ist_text(record.times[-1])}")
    price.set_ylabel("close, rupees")
    price.legend(loc="upper left")
    equity.plot(bars, record.equity, color="tab:green", linewidth=1)
    equity.set_ylabel("equity, rupees")
    equity.set_xlabel("bars")
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[no-untyped-call]
