"""A whole session on paper over recorded bars: one account, one symbol or several, one journal."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from finsense.account.joint import JointSession
from finsense.account.joint_exchange import JointExchange
from finsense.account.trace import Trace
from finsense.evaluation.backtest import Setting
from finsense.live.brokers.paper import PaperBroker
from finsense.live.feeds.replay import ReplayFeed
from finsense.live.journal import Journal, identity_text
from finsense.live.loop import LiveLoop
from finsense.market.bars import Bars, BarsError, ist_text
from finsense.market.instruments import instrument
from finsense.model.bundle import Bundle


class PaperRun(NamedTuple):
    """What came of it.

    Attributes:
        traces: symbol -> every traded bar, those recovered included; a symbol that was never observed is absent.
        dropped: reason -> how many choices ordered nothing because an earlier order of the same moment was in the way,
            those recovered included.
        recovered: moments that the journal had already.
        complete: whether all moments were traded; false after a stop, and after ruin.
    """

    traces: dict[str, Trace]
    dropped: dict[str, int]
    recovered: int
    complete: bool


def trade_on_paper(
    bundle: Bundle,
    setting: Setting,
    histories: Sequence[Bars],
    markets: Sequence[Bars],
    journal_path: Path,
    *,
    speed: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> PaperRun:
    """Trade the markets with the bundle's policy; what the journal has already is recovered, not traded again.

    Args:
        bundle: decides for every symbol.
        setting: the terms.
        histories: bars before the first traded one, of the same symbols as `markets`.
        markets: what is traded.
        journal_path: the session's memory.
        speed: times faster than real time; None does not wait.
        stop: asked before every moment.

    Raises:
        BarsError: the markets do not go together.
        JournalError: the journal belongs to another session or does not replay.
        BooksDiffer: the broker's books are not the session's.
    """
    if {bars.symbol for bars in histories} != {bars.symbol for bars in markets}:
        raise BarsError("expected a history for each of the markets")
    interval = markets[0].interval
    stocks = [instrument(bars.symbol, derivatives=bars.derivatives) for bars in markets]
    session = JointSession(stocks, interval, setting.state, setting.account, setting.costs)
    exchange = JointExchange(stocks, interval, setting.account, setting.costs)
    identity = identity_text(
        mode="paper",
        bundle=bundle.identity,
        symbols=list(session.symbols),
        interval=interval,
        derivatives={bars.symbol: bars.derivatives for bars in markets},
        first_bar={bars.symbol: ist_text(int(bars.time_ns[0])) for bars in markets},
        history={bars.symbol: bars.data_hash for bars in histories},
    )
    with Journal(journal_path, identity) as journal:
        for symbol, bars in journal.begin({bars.symbol: list(bars) for bars in histories}).items():
            for bar in bars:
                session.warm(symbol, bar)
                exchange.warm(symbol, bar)
        loop = LiveLoop(session, bundle.policy, PaperBroker(exchange), journal)
        recovered = loop.recover()
        loop.run(ReplayFeed(markets, speed), stop=stop)
    traces = {symbol: recorder.trace() for symbol, recorder in loop.recorders.items() if len(recorder)}
    complete = loop.time_ns >= max(int(bars.time_ns[-1]) for bars in markets)
    return PaperRun(traces, dict(loop.dropped), recovered, complete)
