"""Decides when to ask Yahoo for which symbol, and when a moment is ready; every failure is counted and has an end."""

import datetime as dt
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple

from finsense.live.brokers.errors import BrokerError, ProtocolError, RateLimited, Rejected
from finsense.live.clock import WallClock
from finsense.live.feeds.yahoo_patience import FeedSilent, HistoryOutdated, Tell, YahooPatience
from finsense.market.bars import Bar, BarsError, ist_text
from finsense.market.calendar import session_date
from finsense.market.moments import Moment
from finsense.market.sources.yahoo import YahooRows

_SECOND_NS = 1_000_000_000
_ONE_DAY = dt.timedelta(days=1)


class Place(NamedTuple):
    """A start on the grid, and when its bar is whole for each symbol that trades then (ns UTC, settling included)."""

    time_ns: int
    whole_ns: Mapping[str, int]


class Answer(NamedTuple):
    """What came of one asking, and when it was made."""

    symbol: str
    asked_ns: int
    rows: YahooRows | BrokerError | BarsError


@dataclass
class _Known:
    """What is known of one symbol.

    Attributes:
        rows: whole bars that were not given yet, by start.
        given: bars of the session that were given, by start.
        newest_ns: start of the newest whole bar seen.
        good_ns: when it was last asked for an answer with whole bars.
        due_ns: since when the newest bar that is due is whole.
        not_before_ns: not to be asked again before.
        failures: answers in a row that failed or were empty.
        bad_since_ns: when the first of them was asked for; None after a good one.
    """

    rows: dict[int, Bar] = field(default_factory=dict)
    given: dict[int, Bar] = field(default_factory=dict)
    newest_ns: int = 0
    good_ns: int = 0
    due_ns: int = 0
    not_before_ns: int = 0
    failures: int = 0
    bad_since_ns: int | None = None


class Polling:
    """One iteration over the feed.

    Args:
        symbols: in alphabetic order.
        first_day: the first session to give.
        places: the grid of a day, none where the exchange is closed.
        ask: the rows of a symbol since a date, whole at an instant (ns UTC); called in a thread of its own, so that
            nobody waits for a server that hangs.
        clock: the time.
        patience: see there.
        tell: hears of trouble.
        generator: draws the pauses.
        splits_known: symbol -> days of the splits that the warm-up knows.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        first_day: dt.date,
        places: Callable[[dt.date], list[Place]],
        ask: Callable[[str, dt.date, int], YahooRows],
        clock: WallClock,
        patience: YahooPatience,
        tell: Tell,
        generator: random.Random,
        splits_known: Mapping[str, Collection[dt.date]],
    ) -> None:
        self._known = {symbol: _Known() for symbol in symbols}
        self._first_day = self._next_day = first_day
        self._places = places
        self._ask_one = ask
        self._clock = clock
        self._patience = patience
        self._tell = tell
        self._generator = generator
        self._splits_known = splits_known
        self._ahead: deque[Place] = deque()
        self._begun_ns = self._progress_ns = clock.now_ns()
        self._told: set[tuple[str, dt.date, str]] = set()
        self._refusals = self._late_ns = 0

    def moments(self) -> Iterator[Moment | None]:
        """See `YahooFeed`."""
        pool = ThreadPoolExecutor(1, "yahoo")
        asked: Future[list[Answer]] | None = None
        try:
            while True:
                yield from self._ready()
                wanted = self._wanted() if asked is None else []
                if wanted:
                    asked = pool.submit(self._ask, wanted, session_date(self._ahead[0].time_ns))
                if asked is None:
                    self._clock.sleep(1.0)
                elif wait([asked], timeout=1.0).done:
                    for answer in asked.result():
                        self._take(answer)
                    asked = None
                    continue
                yield None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ready(self) -> Iterator[Moment]:
        """The moments that wait for nobody any more; gives up where nothing came for too long."""
        while True:
            while not self._ahead:
                self._open_day()
            place, now_ns = self._ahead[0], self._clock.now_ns()
            if not all(self._resolved(place, symbol, now_ns) for symbol in place.whole_ns):
                return
            bars = {
                symbol: self._known[symbol].rows[place.time_ns] for symbol in place.whole_ns if self._has(place, symbol)
            }
            passed = bars or any(self._known[symbol].newest_ns > place.time_ns for symbol in place.whole_ns)
            if not passed and not self._closed_without(now_ns):
                self._check_silence(place, now_ns)
                return
            self._ahead.popleft()
            self._progress_ns = now_ns
            self._hand_over(place, bars)
            if bars:
                yield Moment(place.time_ns, bars)

    def _open_day(self) -> None:
        self._ahead.extend(self._places(self._next_day))
        self._next_day += _ONE_DAY
        for known in self._known.values():
            known.given.clear()
            known.failures, known.bad_since_ns = 0, None

    def _has(self, place: Place, symbol: str) -> bool:
        return place.time_ns in self._known[symbol].rows

    def _resolved(self, place: Place, symbol: str, now_ns: int) -> bool:
        if self._has(place, symbol) or self._known[symbol].newest_ns > place.time_ns:
            return True
        # Who starts in the middle of a session has not waited yet.
        return now_ns >= max(place.whole_ns[symbol], self._begun_ns) + _ns(self._patience.wait_s)

    def _closed_without(self, now_ns: int) -> bool:
        """Whether the session is over and every symbol has been asked well after it: its last bars saw no trade."""
        whole_ns = max(whole for place in self._ahead for whole in place.whole_ns.values())
        asked_ns = max(whole_ns, self._begun_ns) + _ns(self._patience.wait_s)
        return now_ns >= asked_ns and all(known.good_ns >= asked_ns for known in self._known.values())

    def _check_silence(self, place: Place, now_ns: int) -> None:
        since_ns = max(min(place.whole_ns.values()), self._progress_ns)
        if self._late_ns != place.time_ns:
            self._late_ns = place.time_ns
            self._tell("feed late", f"no symbol has its bar of {ist_text(place.time_ns)} yet")
        if now_ns - since_ns >= _ns(self._patience.silence_s):
            failing = {symbol: known.failures for symbol, known in self._known.items() if known.failures}
            raise FeedSilent(
                f"Yahoo gave no bar of {ist_text(place.time_ns)} or later for {(now_ns - since_ns) / 6e10:.1f} minutes "
                f"(symbols with failures in a row: {failing or 'none, it answers without new bars'})"
            )

    def _hand_over(self, place: Place, bars: Mapping[str, Bar]) -> None:
        for symbol in place.whole_ns:
            known = self._known[symbol]
            bar = known.rows.pop(place.time_ns, None)
            if bar is not None:
                known.given[place.time_ns] = bar
            elif bars and known.newest_ns < place.time_ns:
                self._tell("feed late", f"{symbol}: the moment of {ist_text(place.time_ns)} goes without it")

    def _wanted(self) -> list[str]:
        """The symbols whose newest bar that is due by now is not there yet, and that may be asked."""
        now_ns, wanted = self._clock.now_ns(), []
        for symbol, known in self._known.items():
            due = [place for place in self._ahead if place.whole_ns.get(symbol, now_ns + 1) <= now_ns]
            if not due or due[-1].time_ns <= known.newest_ns:
                continue
            if known.bad_since_ns is not None and now_ns - known.bad_since_ns >= _ns(self._patience.silence_s):
                minutes = (now_ns - known.bad_since_ns) / 6e10
                raise FeedSilent(
                    f"{symbol}: {known.failures} answers in a row failed or were empty, {minutes:.1f} minutes"
                )
            if known.due_ns != due[-1].whole_ns[symbol]:
                known.due_ns = due[-1].whole_ns[symbol]
                # Another bar is due, which is not late yet; a failure keeps its pause.
                known.not_before_ns = known.not_before_ns if known.failures else 0
            if now_ns >= known.not_before_ns:
                wanted.append(symbol)
        return wanted

    def _ask(self, symbols: Sequence[str], day: dt.date) -> list[Answer]:
        answers = []
        for symbol in symbols:
            asked_ns = self._clock.now_ns()
            try:
                rows: YahooRows | BrokerError | BarsError = self._ask_one(symbol, day, asked_ns)
            except (BrokerError, BarsError) as error:
                rows = error
            answers.append(Answer(symbol, asked_ns, rows))
            if isinstance(rows, RateLimited):
                break
        return answers

    def _take(self, answer: Answer) -> None:
        known, rows = self._known[answer.symbol], answer.rows
        if isinstance(rows, Rejected | ProtocolError):
            raise rows
        if isinstance(rows, RateLimited):
            self._refusals += 1
            pause_ns = self._pause_ns(self._refusals)
            self._tell("feed rate limited", f"{rows}; all symbols wait", pause_s=round(pause_ns / 1e9, 1))
            for each in self._known.values():
                self._failed(each, answer.asked_ns, pause_ns)
        elif isinstance(rows, Exception):
            self._failed(known, answer.asked_ns, self._pause_ns(known.failures + 1))
            self._tell("feed failing", str(rows), failures=known.failures)
        else:
            self._refusals = 0
            self._look_for_actions(answer.symbol, rows)
            if rows.bars is None:
                self._failed(known, answer.asked_ns, self._pause_ns(known.failures + 1))
                what = f"{answer.symbol}: the answer has no whole bar (left out: {dict(rows.dropped) or 'nothing'})"
                self._tell("feed empty", what, failures=known.failures)
            else:
                self._keep(answer.symbol, known, list(rows.bars))
                known.good_ns, known.failures, known.bad_since_ns = answer.asked_ns, 0, None
                # A bar that is not there yet is asked for less and less often.
                overdue_ns = (answer.asked_ns - known.due_ns) // 3
                known.not_before_ns = answer.asked_ns + max(self._pause_ns(1), overdue_ns)

    def _failed(self, known: _Known, asked_ns: int, pause_ns: int) -> None:
        known.failures += 1
        known.not_before_ns = self._clock.now_ns() + pause_ns
        known.bad_since_ns = asked_ns if known.bad_since_ns is None else known.bad_since_ns

    def _keep(self, symbol: str, known: _Known, bars: Sequence[Bar]) -> None:
        begin_ns = self._ahead[0].time_ns
        for bar in bars:
            if bar.time_ns >= begin_ns:
                known.rows[bar.time_ns] = bar
            elif bar.time_ns in known.given and known.given[bar.time_ns] != bar:
                self._tell("bar revised", f"{symbol}: was given as {known.given[bar.time_ns]}, is {bar} now")
                known.given[bar.time_ns] = bar
            known.newest_ns = max(known.newest_ns, bar.time_ns)

    def _look_for_actions(self, symbol: str, rows: YahooRows) -> None:
        for day, amount in rows.dividends.items():
            self._tell_once(symbol, day, "dividend", f"{amount:g} rupees a share; the price falls by about that")
        for day, ratio in rows.splits.items():
            if day >= self._first_day and day not in self._splits_known[symbol]:
                raise HistoryOutdated(
                    f"{symbol}: Yahoo tells of {ratio:g} new shares per old one on {day}, which the warm-up does not "
                    "know: start again, so that its history is taken anew; compare quantities and stops with the broker"
                )
            self._tell_once(symbol, day, "split", f"{ratio:g} new shares per old one; compare with the broker")

    def _tell_once(self, symbol: str, day: dt.date, kind: str, text: str) -> None:
        if day >= self._first_day and (symbol, day, kind) not in self._told:
            self._told.add((symbol, day, kind))
            self._tell(kind, f"{symbol} on {day}: {text}")

    def _pause_ns(self, failures: int) -> int:
        return _ns(self._patience.pause_s(failures, self._generator))


def _ns(seconds: float) -> int:
    return round(seconds * _SECOND_NS)
