"""`finsense paper`: trade on paper, over live or replayed bars, with a journal."""

import datetime as dt
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finsense.account.trace import Trace
from finsense.cli.errors import HALT, INTERRUPTED, USAGE, refuse
from finsense.cli.live import run_setup
from finsense.cli.options import (
    AsJson,
    FromDate,
    ToDate,
    Zone,
    as_date,
    bars_for,
    print_json,
    setting_of,
    symbol_names,
)
from finsense.cli.tables import show_joint, show_reports
from finsense.config.live import ReplayFeed as RecordedFeed
from finsense.config.live import load_live
from finsense.evaluation.backtest import Setting, judge
from finsense.evaluation.joint import judge_joint
from finsense.live.account_lock import AccountLock
from finsense.live.paper_session import trade_on_paper
from finsense.market.bars import Bars, ist_text
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
    """Trade the bars of one symbol on paper; what the journal has already is recovered, not traded again.

    Returns:
        The trace of all bars, how many of them were recovered, and whether Ctrl-C stopped the run.

    Raises:
        JournalError: the journal belongs to another session or does not replay.
        BooksDiffer: the broker's books are not the session's.
    """
    interrupt = _Interrupt()
    with interrupt.watched():
        run = trade_on_paper(
            bundle,
            setting_of(bundle),
            [history],
            [trading],
            journal_path,
            speed=speed,
            stop=lambda: interrupt.asked,
        )
    return run.traces[trading.symbol], run.recovered, interrupt.asked


def paper(
    setup: Annotated[
        Path | None,
        typer.Argument(metavar="[SETUP]", exists=True, dir_okay=False, help="A live setup (YAML): its feed, on paper."),
    ] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", metavar="B", help="Folder of an exported policy.")] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", exists=True, dir_okay=False, help="Bars to replay.")
    ] = None,
    symbol: Annotated[
        str, typer.Option("--symbol", metavar="S", help="Which symbol of the file; several with commas, one account.")
    ] = "",
    first: FromDate = None,
    last: ToDate = None,
    journal: Annotated[
        Path | None, typer.Option(metavar="J.db", help="Journal; given again, the session goes on where it stopped.")
    ] = None,
    speed: Annotated[str, typer.Option(help="`max`, or how many times faster than real time.")] = "max",
    timezone: Zone = None,
    as_json: AsJson = False,
) -> None:
    """Trade on paper, over the live feed of a setup or over replayed bars; kill it at any time and start it again."""
    if setup is not None:
        if bundle is not None or replay is not None or symbol:
            refuse("usage", f"{setup} names bundle, feed and symbols itself; leave the other options out", USAGE)
        _paper_setup(setup, as_json)
        return
    if bundle is None or replay is None or not symbol:
        refuse("usage", "expected a SETUP, or --bundle, --replay and --symbol", USAGE)
    loaded = load_bundle(bundle)
    setting = setting_of(loaded)
    span = as_date(first), as_date(last)
    names = symbol_names(symbol)
    markets = [bars_for(loaded, replay, name, timezone) for name in names]
    path = journal or Path(f"paper_{loaded.manifest.name}_{'_'.join(names)}_{loaded.identity[:8]}.db")
    _replay(loaded, setting, markets, span, path, _speed(speed), as_json)


def _paper_setup(path: Path, as_json: bool) -> None:
    """Run a setup on paper: over its live feed, or over the recorded bars that it names."""
    setup = load_live(path)
    loaded = load_bundle(setup.bundle)
    if not isinstance(setup.feed, RecordedFeed):
        run_setup(setup, loaded, "paper", as_json=as_json)
        return
    feed = setup.feed
    markets = [bars_for(loaded, feed.path, name, feed.timezone) for name in setup.ordered_symbols]
    setting = replace(setting_of(loaded), account=setup.account_rules(loaded.manifest.account))
    with AccountLock(setup.home, "paper", setup.resolved()):
        _replay(loaded, setting, markets, (feed.first, feed.last), setup.journal("paper"), feed.speed, as_json)


def _replay(
    bundle: Bundle,
    setting: Setting,
    markets: list[Bars],
    span: tuple[dt.date | None, dt.date | None],
    journal: Path,
    pace: float | None,
    as_json: bool,
) -> None:
    parts = [split_history(bars, setting.state, *span) for bars in markets]
    histories, trading = [history for history, _ in parts], [bars for _, bars in parts]
    interrupt = _Interrupt()
    with interrupt.watched():
        run = trade_on_paper(bundle, setting, histories, trading, journal, speed=pace, stop=lambda: interrupt.asked)
    if not run.traces:
        refuse("interrupted", "stopped before the first bar was traded; start again to go on", INTERRUPTED)
    name, steps = bundle.manifest.name, "bars" if len(markets) == 1 else "moments"
    first, last = min(bars.first_date for bars in trading), max(bars.last_date for bars in trading)
    seen = bundle.manifest.provenance.seen_between(first, last)
    facts = {"recovered": run.recovered, "complete": run.complete, "journal": str(journal), "in_sample": list(seen)}
    console = Console(quiet=as_json)
    if len(markets) == 1:
        alone = judge(name, trading[0].symbol, run.traces[trading[0].symbol], setting)
        summary = alone.summary()
        show_reports(console, [alone])
    else:
        together = judge_joint(name, run.traces, setting, run.dropped)
        summary = together.summary()
        show_joint(console, [together])
    if as_json:
        print_json({**summary, **facts})
    else:
        console.print(f"{run.recovered} {steps} were recovered from the journal {journal}")
        if seen:
            console.print(f"IN SAMPLE: the policy was made of days of this span ({' and '.join(seen)}).")
    last_bar = ist_text(max(int(trace.time_ns[-1]) for trace in run.traces.values()))
    if interrupt.asked:
        refuse("interrupted", f"stopped after {last_bar}; start again to go on", INTERRUPTED)
    if not run.complete:
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
