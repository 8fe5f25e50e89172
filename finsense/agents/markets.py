"""From an experiment to prepared markets: bars, and one tape per span that no later span can leak into."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import structlog

from finsense.config import DifferentialSharpeReward, DrawdownReward, Experiment, Span
from finsense.envs.core import EpisodeRules
from finsense.envs.tape import Tape, build_tape
from finsense.market.bars import Bars, BarsError, day_date
from finsense.market.instruments import instrument

log = structlog.get_logger()


@dataclass(frozen=True)
class Markets:
    """The markets of one experiment.

    Attributes:
        bars: symbol -> all its bars.
        train: the tape that the learner trades on.
        validation: the tape that its checkpoints are chosen on.
        trained: the dates that `train` really covers; it may begin later than asked for, see `load_markets`.
    """

    bars: Mapping[str, Bars]
    train: Tape
    validation: Tape
    trained: tuple[dt.date, dt.date]

    @property
    def interval(self) -> str:
        """Of every symbol's bars."""
        return self.train.interval

    @property
    def data_hash(self) -> dict[str, str]:
        """Symbol -> SHA-256 (hex) of its bars."""
        return {symbol: bars.data_hash for symbol, bars in self.bars.items()}


def load_markets(experiment: Experiment) -> Markets:
    """Load the bars and prepare the training and the validation span; the test span is left alone.

    The warm-up of a span lies before it. Where the data begin with the training span, its first sessions serve as the
    warm-up instead and training begins after them, which is logged; the other spans must have theirs.

    Raises:
        BarsError: the data cannot be read, or do not cover a span.
        HistoryError: there is too little history before the validation span.
        CostError: no charge schedule is known for a date.
    """
    bars = experiment.data.load()
    split = experiment.split
    first = max(_first_with_warmup(one, split.train, experiment.state.warmup) for one in bars.values())
    if first > split.train.first:
        log.info(
            "training starts later: its first sessions are the warm-up", asked=str(split.train.first), found=str(first)
        )
    return Markets(
        bars=bars,
        train=span_tape(experiment, bars, first, split.train.last),
        validation=span_tape(experiment, bars, split.validation.first, split.validation.last),
        trained=(first, split.train.last),
    )


def span_tape(experiment: Experiment, bars: Mapping[str, Bars], first: dt.date, last: dt.date) -> Tape:
    """The tape of every symbol between two dates, both inclusive; it holds no bar after the last one.

    Raises:
        BarsError: the bars do not reach the dates.
        HistoryError: a symbol has too little history before the first date.
        CostError: no charge schedule is known for a date.
    """
    known = [one.between(None, last) for one in bars.values()]
    markets = [(one, instrument(one.symbol, derivatives=one.derivatives)) for one in known]
    return build_tape(markets, experiment.state, experiment.costs, first, last)


def episode_rules(experiment: Experiment) -> EpisodeRules:
    """How a training episode of the experiment is played."""
    reward, parameters = experiment.reward, {}
    if isinstance(reward, DifferentialSharpeReward):
        parameters = {"rate": reward.rate}
    elif isinstance(reward, DrawdownReward):
        parameters = {"penalty": reward.penalty}
    return EpisodeRules(
        reward=reward.kind,
        reward_scale=reward.scale,
        reward_parameters=parameters,
        bars=experiment.episode.bars,
        random_start=experiment.episode.start == "random",
        slippage_bps=experiment.episode.slippage_bps,
    )


def _first_with_warmup(bars: Bars, span: Span, warmup: int) -> dt.date:
    """The first date of the span on which the symbol has its warm-up behind it."""
    days, starts = bars.session_days, bars.session_offsets[:-1]
    warm = days[starts[starts >= warmup]]
    if not len(warm) or day_date(warm[0]) > span.last:
        bars_until = int(np.searchsorted(days, (span.last - dt.date(1970, 1, 1)).days, side="right"))
        raise BarsError(
            f"{bars.symbol}: no session from {span.first} to {span.last} has the warm-up of {warmup} bars before it, "
            f"found {bars_until} bars up to {span.last}; give more history, move split.train, or lower state.warmup"
        )
    return max(span.first, day_date(warm[0]))
