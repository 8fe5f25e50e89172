"""Whole bars of NSE stocks from Yahoo, and the history before them: good for paper, never for real orders."""

import datetime as dt
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog

from finsense.live.brokers.errors import RateLimited, TransientRead
from finsense.live.clock import WallClock
from finsense.live.feeds.yahoo_chart import OLDEST_DAYS, Chart, YahooChart
from finsense.live.feeds.yahoo_patience import FeedSilent as FeedSilent
from finsense.live.feeds.yahoo_patience import HistoryOutdated as HistoryOutdated
from finsense.live.feeds.yahoo_patience import Tell
from finsense.live.feeds.yahoo_patience import YahooPatience as YahooPatience
from finsense.live.feeds.yahoo_polling import Place, Polling
from finsense.market.bars import Bars, BarsError, session_day
from finsense.market.calendar import nse_calendar, session_date
from finsense.market.instruments import instrument
from finsense.market.moments import Moment
from finsense.market.sources.yahoo import YahooRows, bar_ends, believed_rows, continuous

_SECOND_NS = 1_000_000_000
_ONE_DAY = dt.timedelta(days=1)
# What only a vendor's mistake explains; the rest of what is left out is Yahoo's daily bread.
_WRONG = "prices that contradict each other"

log = structlog.get_logger()


class YahooHistory(NamedTuple):
    """What makes a state warm.

    Attributes:
        bars: symbol -> its bars before the first session of the feed, in the shares of today.
        factors: symbol -> day of each split -> by what older prices were divided (1: Yahoo had done so).
        missing: symbol -> sessions without any bar.
    """

    bars: dict[str, Bars]
    factors: dict[str, dict[dt.date, float]]
    missing: dict[str, list[dt.date]]


class YahooFeed:
    """Polls Yahoo's chart; a Feed.

    Yahoo is unofficial, delayed and without any promise. Prices are raw, in the shares of the day. The feed begins with
    the first bar of the session in progress (or of the next one), whenever it is started; `history` gives what lies
    before, without a gap between the two. Each iteration starts anew there. A bar is given once: where Yahoo changes
    it later, or brings it after the others of its moment, that is told and left.

    Args:
        symbols: trading symbols of NSE, without Yahoo's suffix.
        interval: "5m" or "1d".
        clock: the time.
        chart: answers; None asks Yahoo.
        derivatives: symbol -> whether it has derivatives; what is absent is taken from what is known of the symbol.
        since: first date to give; None is the session in progress.
        splits_known: symbol -> days of splits that the warm-up knows, as `YahooHistory.factors` of another feed; what
            this feed's own `history` finds is added.
        patience: see there.
        alarm: hears of all that is wrong (`Alarms.raise_`); None logs it.
        generator: draws the pauses.

    Attributes:
        first_day: the first session that the feed gives.
        counts: kind of trouble, or why rows were left out -> how often.

    Raises:
        ValueError: the symbols or the interval are not ones that Yahoo can serve.
        CalendarError: the calendar cannot tell the hours of a symbol.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        interval: str,
        clock: WallClock,
        *,
        chart: Chart | None = None,
        derivatives: Mapping[str, bool] | None = None,
        since: dt.date | None = None,
        splits_known: Mapping[str, Collection[dt.date]] | None = None,
        patience: YahooPatience | None = None,
        alarm: Tell | None = None,
        generator: random.Random | None = None,
    ) -> None:
        if interval not in OLDEST_DAYS:
            raise ValueError(
                f"expected an interval that Yahoo serves on NSE's grid ({', '.join(OLDEST_DAYS)}), found {interval!r}"
            )
        if not symbols or len(set(symbols)) < len(symbols):
            raise ValueError(f"expected symbols, each once, found {', '.join(symbols) or 'none'}")
        self._symbols = sorted(symbols)
        self._interval = interval
        self._clock = clock
        self._chart = chart or YahooChart()
        given = derivatives or {}
        self._derivatives = {name: instrument(name, derivatives=given.get(name)).derivatives for name in symbols}
        self._patience = patience or YahooPatience()
        settle_s = self._patience.settle_day_s if interval == "1d" else self._patience.settle_s
        self._settle_ns = round(settle_s * _SECOND_NS)
        self._alarm = alarm
        self._generator = generator or random.Random()
        self._splits_known = {name: set((splits_known or {}).get(name, ())) for name in symbols}
        self.counts: Counter[str] = Counter()
        self.first_day = since or self._day_in_progress()

    def __iter__(self) -> Iterator[Moment | None]:
        """The moments from `first_day` on, without end; None about once a second.

        Raises:
            FeedSilent: nothing came for too long.
            HistoryOutdated: a split that `history` did not know.
            BrokerError: Yahoo refuses what was asked, or the client broke.
        """
        return Polling(
            self._symbols,
            self.first_day,
            self._places,
            self._rows,
            self._clock,
            self._patience,
            self._tell,
            self._generator,
            self._splits_known,
        ).moments()

    def history(self, sessions: int) -> YahooHistory:
        """The bars of so many sessions before `first_day`, each symbol's in the shares of today.

        Raises:
            ValueError: Yahoo does not keep bars of the interval that long.
            BrokerError: it did not answer within the silence allowed, or refuses.
            BarsError: an answer has no bar of before, or a split that fits no step of the prices.
        """
        days = self._sessions_before(sessions)
        oldest, age = OLDEST_DAYS[self._interval], (session_date(self._clock.now_ns()) - days[0]).days
        if oldest is not None and age > oldest:
            raise ValueError(
                f"expected bars of the last {oldest} days, as Yahoo keeps {self._interval} bars no longer, found "
                f"{sessions} sessions before {self.first_day}, {age} days; warm up from a file, or ask for fewer"
            )
        found = YahooHistory({}, {}, {})
        for symbol in self._symbols:
            rows = self._patiently(symbol, days[0])
            if rows.bars is None or rows.bars.first_date >= self.first_day:
                raise BarsError(f"{symbol}: Yahoo has no bar from {days[0]} to {days[-1]} ({dict(rows.dropped)})")
            whole, found.factors[symbol] = continuous(rows.bars, rows.splits)
            self._check_steps(symbol, rows, found.factors[symbol])
            self._splits_known[symbol] |= set(found.factors[symbol])
            bars = whole.take(0, int((whole.session_days < session_day(self.first_day)).sum()))
            found.bars[symbol] = bars.between(max(days[0], bars.first_date), None)
            there = {session.date for session in found.bars[symbol].sessions}
            if missing := [day for day in days if day not in there]:
                found.missing[symbol] = missing
                self._tell("history gap", f"{symbol}: Yahoo has no bar of {', '.join(map(str, missing))}")
        return found

    def _check_steps(self, symbol: str, rows: YahooRows, factors: Mapping[dt.date, float]) -> None:
        """A split whose step is not to be seen yet: whether older prices are adjusted cannot be told."""
        assert rows.bars is not None
        unseen = [day for day in rows.splits if day > rows.bars.last_date and day not in factors]
        if unseen:
            raise BarsError(
                f"{symbol}: Yahoo tells of a split on {unseen[0]}, but the last whole bar is of {rows.bars.last_date}: "
                "whether the older prices know it shows with the first bar of that day; start again then"
            )

    def _patiently(self, symbol: str, day: dt.date) -> YahooRows:
        """The rows of a symbol, asked for again while a failure may pass."""
        begun_ns, failures = self._clock.now_ns(), 0
        while True:
            try:
                return self._rows(symbol, day, self._clock.now_ns())
            except (RateLimited, TransientRead) as error:
                waited_s = (self._clock.now_ns() - begun_ns) / _SECOND_NS
                if waited_s >= self._patience.silence_s:
                    raise
                failures += 1
                kind = "feed rate limited" if isinstance(error, RateLimited) else "feed failing"
                self._tell(kind, str(error), failures=failures)
            self._clock.sleep(self._patience.pause_s(failures, self._generator))

    def _rows(self, symbol: str, day: dt.date, now_ns: int) -> YahooRows:
        frame = self._chart.since(symbol, self._interval, day, now_ns)
        derivatives, until_ns = self._derivatives[symbol], now_ns - self._settle_ns
        rows = believed_rows(frame, symbol, self._interval, derivatives=derivatives, until_ns=until_ns)
        self.counts.update(rows.dropped)
        if _WRONG in rows.dropped:
            log.warning(f"Yahoo's rows have {_WRONG}; they were left out", symbol=symbol, rows=rows.dropped[_WRONG])
        return rows

    def _tell(self, kind: str, text: str, /, **facts: object) -> None:
        self.counts[kind] += 1
        if self._alarm is None:
            log.warning(text, kind=kind, **facts)
        else:
            self._alarm(kind, text, **facts)

    def _day_in_progress(self) -> dt.date:
        now_ns = self._clock.now_ns()
        day = session_date(now_ns)
        while not any(max(place.whole_ns.values()) > now_ns for place in self._places(day)):
            day += _ONE_DAY
        return day

    def _sessions_before(self, sessions: int) -> list[dt.date]:
        if sessions < 1:
            raise ValueError(f"expected at least one session of history, found {sessions}")
        days: list[dt.date] = []
        day = self.first_day
        while len(days) < sessions:
            day -= _ONE_DAY
            if nse_calendar().session(day, derivatives=False) is not None:
                days.insert(0, day)
        return days

    def _places(self, day: dt.date) -> list[Place]:
        """The grid of a day, none where the exchange is closed."""
        found: dict[int, dict[str, int]] = {}
        for symbol in self._symbols:
            session = nse_calendar().session(day, derivatives=self._derivatives[symbol])
            ends = bar_ends(session, self._interval) if session is not None else {}
            for start_ns, end_ns in ends.items():
                found.setdefault(start_ns, {})[symbol] = end_ns + self._settle_ns
        return [Place(start_ns, found[start_ns]) for start_ns in sorted(found)]
