"""Yahoo Finance as the source of a session on paper; it has no broker."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finsense.account.rules import AccountRules
from finsense.config.live import LiveSetup
from finsense.config.live import YahooFeed as FeedSettings
from finsense.live.brokers import Broker
from finsense.live.brokers.errors import AuthExpired, HaltTrading
from finsense.live.clock import SystemClock, WallClock
from finsense.live.feeds.yahoo import YahooFeed, YahooPatience
from finsense.live.feeds.yahoo_chart import YahooChart
from finsense.live.gate import LastTick
from finsense.live.journal import Journal
from finsense.live.warm_up import session_ahead, sessions_before
from finsense.market.bars import Bar
from finsense.market.calendar import session_date
from finsense.market.instruments import instrument
from finsense.model.manifest import Manifest


class YahooSource:
    """See `Source`.

    Args:
        setup: of the session.
        manifest: of the bundle.
        clock: the time.
    """

    def __init__(self, setup: LiveSetup, manifest: Manifest, clock: WallClock | None = None) -> None:
        assert isinstance(setup.feed, FeedSettings)
        self._symbols, self._manifest, self._clock = setup.ordered_symbols, manifest, clock or SystemClock()
        self._patience = YahooPatience(retry_s=setup.feed.poll_s)
        self._chart = YahooChart()
        # Day of each split that the history knows: it must not surprise the feed.
        self._splits: Mapping[str, Mapping[dt.date, float]] = {}
        known = {name: instrument(name, derivatives=manifest.derivatives).derivatives for name in setup.symbols}
        self._derivatives = {name: value for name, value in known.items() if value is not None}

    @property
    def clock(self) -> WallClock:
        """See `Source`."""
        return self._clock

    def history(self) -> Mapping[str, Sequence[Bar]]:
        """See `Source`.

        Raises:
            BarsError: Yahoo's bars cannot be trusted, or are missing.
            BrokerError: it did not answer.
        """
        manifest, now_ns = self._manifest, self._clock.now_ns()
        known = [self._derivatives.get(symbol) for symbol in self._symbols]
        sessions = max(
            len(sessions_before(session_ahead(now_ns, one).date, manifest.interval, manifest.state.warmup, one))
            for one in known
        )
        found = self._feed().history(sessions)
        self._splits = found.factors
        return {symbol: list(bars) for symbol, bars in found.bars.items()}

    def feed(self, after_ns: int) -> YahooFeed:
        """See `Source`; it begins with the day of the last bar that is known, whose bars the loop passes over."""
        return self._feed(after_ns)

    def broker(
        self,
        journal: Journal,
        identity: str,
        rules: AccountRules,
        alarm: Callable[..., None],
        look: Callable[[], Any],
    ) -> Broker:
        """See `Source`.

        Raises:
            HaltTrading: always.
        """
        raise HaltTrading("Yahoo is no broker: this setup trades on paper alone")

    def last_tick(self, symbol: str) -> LastTick | None:
        """See `Source`."""
        return None

    def renew(self, look: Callable[[], Any]) -> None:
        """See `Source`.

        Raises:
            AuthExpired: always; there is no login.
        """
        raise AuthExpired("Yahoo has no login that could be renewed")

    def end_day(self, journal: Journal, rules: AccountRules, alarm: Callable[..., None]) -> None:
        """See `Source`."""

    def close(self) -> None:
        """See `Source`."""
        self._chart.close()

    def _feed(self, after_ns: int | None = None) -> YahooFeed:
        return YahooFeed(
            self._symbols,
            self._manifest.interval,
            self._clock,
            derivatives=self._derivatives,
            chart=self._chart,
            since=None if after_ns is None else session_date(after_ns),
            splits_known=self._splits,
            patience=self._patience,
        )
