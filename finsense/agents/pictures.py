"""Pictures of a validation for TensorBoard: equity beside the baselines, the last actions on the price, the policy."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from finsense.account.rules import OrderActions
from finsense.agents.markets import episode_rules
from finsense.agents.validation import Judge, Path
from finsense.config import Experiment
from finsense.envs.tape import Tape
from finsense.evaluation.baselines import BuyAndHold, RandomLegal, SmaCross, sma_above
from finsense.evaluation.oracle import OracleError, Solution, solve
from finsense.evaluation.oracle_policy import shares_by_signal
from finsense.market.bars import ist_text
from finsense.market.simulate import SimulatedMarket
from finsense.model.policy import Policy

Raster = NDArray[np.uint8]

# Sessions in the picture of the actions.
_SESSIONS = 3
# Bins of the policy's picture over this many standard deviations of the signal to each side.
_BINS, _REACH = 36, 3.0
_AGENT, _BOUGHT, _SOLD = "tab:blue", "tab:green", "tab:red"
_BASELINES = ("0.35", "tab:orange", "tab:green")


class Gallery:
    """Draws what a policy did on the first symbol of the validation span.

    The baselines walk the span once, at the first picture; nothing that it does draws from the training's generators.

    Args:
        experiment: what is trained.
        tape: of the validation span.
    """

    def __init__(self, experiment: Experiment, tape: Tape) -> None:
        self._experiment = experiment
        self._tape = replace(tape, spans=tape.spans[:1], symbols=tape.symbols[:1])
        self._first, self._last = (int(bar) for bar in tape.spans[0])
        self._baselines: dict[str, NDArray[np.int64]] | None = None
        market = experiment.data
        self._signal: NDArray[np.float64] | None = None
        self._solution: Solution | None = None
        if isinstance(market, SimulatedMarket) and market.model != "random_walk":
            _, signal = market.simulate_with_signal(tape.symbols[0])
            self._signal = signal[self._first : self._last + 1]
            self._solution = _solved(experiment, market)

    def pictures(self, paths: Sequence[Path]) -> dict[str, Raster]:
        """TensorBoard tag -> (height, width, 3) uint8, of the paths of a walk over the validation span."""
        drawn = {"pictures/equity": self._equity(paths[0]), "pictures/actions": self._actions(paths[0])}
        if self._signal is not None:
            drawn["pictures/policy"] = self._policy(paths[0], self._signal)
        return drawn

    def _equity(self, path: Path) -> Raster:
        if self._baselines is None:
            self._baselines = self._walk_baselines()
        figure, (axes,) = _figure(1, 3.2)
        balance = self._experiment.account.balance_paise
        highest = 1.0
        for (name, equity), color in zip(self._baselines.items(), _BASELINES, strict=True):
            axes.plot(equity / balance, color=color, linewidth=0.9, label=name)
            highest = max(highest, float(equity.max()) / balance)
        axes.plot(path.equity_paise / balance, color=_AGENT, linewidth=1.8, label="policy")
        axes.axhline(1.0, color="0.6", linewidth=0.8)
        if max(highest, float(path.equity_paise.max()) / balance) > 3.0:
            axes.set_yscale("log")
        axes.set_title(f"{self._tape.symbols[0]}: equity over the starting balance, after charges")
        axes.set_xlabel(f"bars from {self._when(0)} to {self._when(len(path.equity_paise) - 1)}")
        axes.legend(loc="upper left", fontsize=8)
        return _raster(figure)

    def _actions(self, path: Path) -> Raster:
        """Price, what was held, what was ordered and what was chosen, over the last sessions."""
        count = len(path.position)
        days = self._tape.markets["day"][self._first : self._first + count]
        begin = int(np.searchsorted(days, np.unique(days)[-_SESSIONS:][0]))
        bars = np.arange(begin, count)
        close = self._tape.markets["close_paise"][self._first + begin : self._first + count] / 100
        held, traded = path.position[begin:], np.diff(path.position, prepend=0)[begin:]
        figure, (price, chosen) = _figure(2, 4.2, heights=(3, 1))
        price.plot(bars, close, color="0.25", linewidth=1)
        _shade(price, bars, held > 0, _BOUGHT)
        _shade(price, bars, held < 0, _SOLD)
        price.scatter(bars[traded > 0], close[traded > 0], marker="^", color=_BOUGHT, label="bought", zorder=3)
        price.scatter(bars[traded < 0], close[traded < 0], marker="v", color=_SOLD, label="sold", zorder=3)
        price.set_title(f"{self._tape.symbols[0]}: the last {_SESSIONS} sessions, shaded while shares are held")
        price.set_ylabel("close, rupees")
        price.legend(loc="upper left", fontsize=8)
        names = self._experiment.account.action_names
        actions, free = path.actions[begin:], path.masks[begin:].sum(axis=1) > 1
        decided = bars[: len(actions)]
        chosen.scatter(decided[free], actions[free], s=6, color=_AGENT, label="chosen")
        chosen.scatter(decided[~free], actions[~free], s=6, color="0.75", label="no choice")
        chosen.set_yticks(range(len(names)), names)
        chosen.set_ylim(-0.5, len(names) - 0.5)
        chosen.set_xlabel(f"bars from {self._when(begin)} to {self._when(count - 1)}")
        chosen.legend(loc="upper left", fontsize=7, ncols=2)
        return _raster(figure)

    def _policy(self, path: Path, signal: NDArray[np.float64]) -> Raster:
        """How often it wants shares, by the hidden signal and by what it held; dashed where the best policy turns."""
        market = self._experiment.data
        assert isinstance(market, SimulatedMarket)
        reverts = market.model == "mean_reversion"
        edges = np.arange(len(market.regimes or ()) + 1, dtype=np.float64) - 0.5
        if reverts:
            edges = np.linspace(-_REACH, _REACH, _BINS + 1) * market.stationary_deviation
        count = len(path.actions)
        free = path.masks.sum(axis=1) > 1
        # An order fills at the next open, so what is held at the next close is what the decision was for.
        shares = shares_by_signal(path.position[:count], path.position[1 : count + 1], free, signal[:count], edges)
        middles = (edges[1:] + edges[:-1]) / 2 * (100.0 if reverts else 1.0)
        figure, (axes,) = _figure(1, 3.2)
        for held, color in (("flat", _AGENT), ("long", "tab:orange")):
            known = np.isfinite(shares[held])
            axes.plot(middles[known], shares[held][known], marker="o", markersize=3, color=color, label=f"when {held}")
        if not reverts:
            axes.set_xticks(middles)
        self._mark_best(axes, reverts)
        axes.set_ylim(-0.05, 1.05)
        axes.set_title(f"{self._tape.symbols[0]}: share of the decisions that want shares")
        axes.set_xlabel("deviation of the log price from its level, %" if reverts else "regime")
        axes.legend(loc="upper right", fontsize=8)
        return _raster(figure)

    def _mark_best(self, axes: Axes, reverts: bool) -> None:
        if self._solution is None:
            return
        band = self._solution.band()
        if reverts and band is not None:
            axes.axvline(band[0] * 100, color=_AGENT, linestyle="--", label="the best policy buys below")
            axes.axvline(band[1] * 100, color="tab:orange", linestyle="--", label="and sells above")
            return
        wants = self._solution.choice[0] == len(self._solution.exposures) - 1
        flat = int(np.flatnonzero(self._solution.exposures == 0.0)[0])
        regimes = np.arange(len(wants))
        axes.scatter(regimes, wants[:, flat], s=90, facecolors="none", edgecolors=_AGENT, label="best, when flat")
        last = wants[:, -1]
        axes.scatter(regimes, last, s=160, facecolors="none", edgecolors="tab:orange", label="best, when long")

    def _walk_baselines(self) -> dict[str, NDArray[np.int64]]:
        """Equity at each bar, (n,) int64 paise, by the baseline's name."""
        experiment, rules = self._experiment, self._experiment.account
        judge = Judge(self._tape, rules, episode_rules(experiment), experiment.evaluation.sessions_per_year)
        sma = experiment.evaluation.sma
        close = self._tape.markets["close_paise"][: self._last + 1] / 100
        policies: dict[str, Policy] = {
            "buy and hold": BuyAndHold(rules),
            "random legal": RandomLegal(np.random.default_rng(experiment.evaluation.seed)),
            f"SMA cross {sma.fast}/{sma.slow}": SmaCross(rules, sma_above(close, sma.fast, sma.slow)[self._first :]),
        }
        return {name: _equity_of(judge, policy) for name, policy in policies.items()}

    def _when(self, bar: int) -> str:
        return ist_text(int(self._tape.times[self._first + bar]))


def _solved(experiment: Experiment, market: SimulatedMarket) -> Solution | None:
    """The best policy, where the program knows the account's rules and no short positions confuse the picture."""
    rules = experiment.account
    if rules.allow_short or not isinstance(rules.actions, OrderActions):
        return None
    try:
        return solve(market, rules, experiment.costs)
    except OracleError:
        return None


def _equity_of(judge: Judge, policy: Policy) -> NDArray[np.int64]:
    (path,) = judge.paths(lambda state, mask: policy.act(state[None], mask[None]).action)
    return path.equity_paise


def _figure(rows: int, height: float, heights: tuple[float, ...] | None = None) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, height), dpi=100)
    # Fixed margins: fitting them to the labels would take longer than drawing.
    figure.subplots_adjust(0.09, 0.5 / height, 0.98, 1 - 0.3 / height, hspace=0.06)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=heights)
    return figure, list(axes[:, 0])


def _shade(axes: Axes, bars: NDArray[np.int64], where: NDArray[np.bool_], color: str) -> None:
    axes.fill_between(
        bars, 0, 1, where=where, color=color, alpha=0.12, linewidth=0, transform=axes.get_xaxis_transform()
    )


def _raster(figure: Figure) -> Raster:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[no-untyped-call]
