"""`finsense paper`: run a bundle over replayed bars with the paper broker and a journal."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finsense.account.exchange import SimulatedExchange
from finsense.account.session import Session
from finsense.account.trace import Trace
from finsense.cli.errors import HALT, INTERRUPTED, USAGE, refuse
from finsense.cli.options import AsJson, FromDate, SymbolName, ToDate, Zone, as_date, bars_for, print_json, setting_of
from finsense.cli.tables import show_reports
from finsense.evaluation.backtest import judge
from finsense.live.brokers.paper import PaperBroker
from finsense.live.feeds.replay import ReplayFeed
from finsense.live.journal import Journal, identity_text
from finsense.live.loop import LiveLoop
from finsense.market.bars import Bars, ist_text
from finsense.market.instruments import instrument
from finsense.model.bundle import Bundle, load_bundle
from finsense.state.span import split_history


class _Interrupt:
    """Turns the first Ctrl-C into a stop after the current bar; the second one acts at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, self._take)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _take(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def paper_trade(
    bundle: Bundle, history: Bars, trading: Bars, journal_path: Path, speed: float | None = None
) -> tuple[Trace, int, bool]:
    """Trade the bars on paper; what the journal has already is recovered, not traded again.

    Returns:
        The trace of all bars, how many of them were recovered, and whether Ctrl-C stopped the run.

    Raises:
        JournalError: the journal belongs to another session or does not replay.
        BooksDiffer: the broker's books are not the session's.
    """
    setting = setting_of(bundle)
    stock = instrument(trading.symbol, derivatives=trading.derivatives)
    session = Session(stock, trading.interval, setting.state, setting.account, setting.costs)
    exchange = SimulatedExchange(stock, trading.interval, setting.account, setting.costs)
    identity = identity_text(
        mode="paper",
        bundle=bundle.identity,
        symbol=trading.symbol,
        interval=trading.interval,
        derivatives=trading.derivatives,
        first_bar=ist_text(int(trading.time_ns[0])),
        history=history.data_hash,
    )
    interrupt = _Interrupt()
    with Journal(journal_path, identity) as journal:
        for bar in journal.begin(list(history)):
            session.warm(bar)
            exchange.warm(bar)
        loop = LiveLoop(session, bundle.policy, PaperBroker(exchange), journal)
        recovered = loop.recover()
        with interrupt.watched():
            loop.run(ReplayFeed(trading, speed), stop=lambda: interrupt.asked)
    return loop.recorder.trace(), recovered, interrupt.asked


def paper(
    bundle: Annotated[Path, typer.Option("--bundle", metavar="B", help="Folder of an exported policy.")],
    replay: Annotated[
        Path, typer.Option("--replay", metavar="FILE", exists=True, dir_okay=False, help="Bars to replay.")
    ],
    symbol: SymbolName,
    first: FromDate = None,
    last: ToDate = None,
    journal: Annotated[
        Path | None, typer.Option(metavar="J.db", help="Journal; given again, the session goes on where it stopped.")
    ] = None,
    speed: Annotated[str, typer.Option(help="`max`, or how many times faster than real time.")] = "max",
    timezone: Zone = None,
    as_json: AsJson = False,
) -> None:
    """Run a bundle over replayed bars with the paper broker; kill it at any time and start it again."""
    pace = _speed(speed)
    loaded = load_bundle(bundle)
    setting = setting_of(loaded)
    bars = bars_for(loaded, replay, symbol, timezone)
    history, trading = split_history(bars, setting.state, as_date(first), as_date(last))
    path = journal or Path(f"paper_{loaded.manifest.name}_{symbol}_{loaded.identity[:8]}.db")
    trace, recovered, stopped = paper_trade(loaded, history, trading, path, pace)
    judged = judge(loaded.manifest.name, symbol, trace, setting)
    complete = len(trace.time_ns) == len(trading)
    if as_json:
        print_json({**judged.summary(), "recovered": recovered, "complete": complete, "journal": str(path)})
    else:
        console = Console()
        show_reports(console, [judged])
        console.print(f"{recovered} bars were recovered from the journal {path}")
    last_bar = ist_text(int(trace.time_ns[-1]))
    if stopped:
        refuse("interrupted", f"stopped after {last_bar}; start again to go on", INTERRUPTED)
    if not complete:
        refuse(
            "halted", f"the account was ruined at {last_bar}: trading stopped there and no order was sent since", HALT
        )


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        pace = float(text)
    except ValueError:
        pace = 0.0
    if not 0 < pace < float("inf"):
        refuse("usage", f"expected --speed max or a number above 0, found {text!r}", USAGE)
    return pace
