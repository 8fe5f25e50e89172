"""Zerodha Kite as the source of a session: login, today's instruments, history, ticks, and the broker."""

import time
from collections.abc import Callable
from typing import Any

import structlog

from finsense.account.rules import AccountRules
from finsense.config.live import KiteBroker as KiteSettings
from finsense.config.live import KiteFeed as FeedSettings
from finsense.config.live import LiveSetup
from finsense.live.brokers.errors import AuthExpired, BrokerError
from finsense.live.brokers.kite import KiteBroker
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.clock import SystemClock, WallClock, clock_of
from finsense.live.day_end import DayEnd, day_end
from finsense.live.feeds.instruments import InstrumentsError, confirm, todays_instruments
from finsense.live.feeds.kite import FeedPatience, KiteFeed
from finsense.live.feeds.kite_history import history
from finsense.live.feeds.kite_stream import KITE_STREAM, KiteStream
from finsense.live.feeds.kite_stream import Patience as StreamPatience
from finsense.live.gate import LastTick
from finsense.live.journal import Journal
from finsense.live.kite_login import wait_for_token
from finsense.live.order_style import OrderStyle
from finsense.live.orders import Product
from finsense.live.patience import Patience
from finsense.live.secret_store import SecretStore
from finsense.live.warm_up import session_ahead, sessions_before
from finsense.market.bars import Bar, BarsError
from finsense.market.calendar import session_date
from finsense.market.instruments import instrument
from finsense.model.manifest import Manifest

_SECOND_NS = 1_000_000_000
# A reading of the book or of the positions so young stands for one at the bar's close, real seconds.
_FRESH_S = 2.0
# Where a token is refused that lives, as by a server that refuses all, it is tried again after so many seconds of the
# market, twice as many each time, up to the longest.
_FIRST_DOUBT_S, _LONGEST_DOUBT_S = 1.0, 60.0

log = structlog.get_logger()


class KiteSource:
    """See `Source`; it waits for a login where there is none yet.

    Args:
        setup: of the session; its broker is Kite.
        manifest: of the bundle.
        store: where the login is kept.
        look: called while a login is waited for; may raise to give up.

    Raises:
        BarsError: a symbol does not trade today.
        BrokerError: Kite refuses, or cannot be reached.
    """

    def __init__(
        self, setup: LiveSetup, manifest: Manifest, store: SecretStore, look: Callable[[], Any] = lambda: None
    ) -> None:
        assert isinstance(setup.broker, KiteSettings)
        assert isinstance(setup.feed, FeedSettings)
        self._setup, self._manifest, self._store = setup, manifest, store
        self._settings, self._feed_settings = setup.broker, setup.feed
        self._clock: WallClock = SystemClock() if self._settings.root is None else clock_of(self._settings.root)
        self._limits = RateLimits(setup.rates)
        self._token = wait_for_token(store, setup.account, self._clock, look)
        # The feed asks for candles in threads of its own.
        self._rest, self._past = self._client(), self._client()
        self._derivatives = {
            symbol: instrument(symbol, derivatives=manifest.derivatives).derivatives for symbol in setup.symbols
        }
        try:
            listed = todays_instruments(self._rest, setup.home, self._clock.now_ns())
            rows = listed.find(setup.symbols)
            confirm(listed, self._rest, setup.ordered_symbols)
        except InstrumentsError as error:
            # A kind that the commands know without this vendor's extra.
            raise BarsError(str(error)) from None
        self._tokens = {symbol: row.token for symbol, row in rows.items()}
        self._doubt_s = _FIRST_DOUBT_S
        self._feed: KiteFeed | None = None
        self._broker: KiteBroker | None = None

    @property
    def clock(self) -> WallClock:
        """See `Source`."""
        return self._clock

    def history(self) -> dict[str, list[Bar]]:
        """See `Source`.

        Raises:
            BarsError: the vendor's candles have holes, or are too few.
        """
        found: dict[str, list[Bar]] = {}
        manifest = self._manifest
        for symbol, token in self._tokens.items():
            known = self._derivatives[symbol]
            ahead = session_ahead(self._clock.now_ns(), known)
            sessions = sessions_before(ahead.date, manifest.interval, manifest.state.warmup, known)
            first, last = sessions[0].date, sessions[-1].date
            found[symbol] = list(
                history(self._past, symbol, token, manifest.interval, first, last, clock=self._clock, derivatives=known)
            )
        return found

    def feed(self, after_ns: int) -> KiteFeed:
        """See `Source`."""
        features = self._manifest.state.features
        self._feed = KiteFeed(
            self._stream,
            self._past,
            self._tokens,
            self._manifest.interval,
            self._clock,
            derivatives={symbol: bool(known) for symbol, known in self._derivatives.items() if known is not None},
            needs={name for feature in features for name in feature.indicator.needs},
            after_ns=after_ns,
            on_order_update=self._updated,
            candles_only=self._feed_settings.bars == "candles",
            patience=FeedPatience(grace_ns=round(self._feed_settings.late_s * _SECOND_NS)),
        )
        return self._feed

    def broker(
        self,
        journal: Journal,
        identity: str,
        rules: AccountRules,
        alarm: Callable[..., None],
        look: Callable[[], Any],
    ) -> KiteBroker:
        """See `Source`."""
        style = OrderStyle(_product(rules), self._settings.market_protection)

        def pause(seconds: float) -> None:
            look()
            time.sleep(seconds)

        self._broker = KiteBroker(
            self._rest,
            journal,
            identity,
            self._setup.ordered_symbols,
            style,
            clock=self._clock,
            alarm=alarm,
            renew=lambda: self.renew(look),
            patience=Patience(fate_s=self._settings.fate_s, arrival_s=self._settings.timeout_s + 1.0, fresh_s=_FRESH_S),
            pause=pause,
        )
        return self._broker

    def last_tick(self, symbol: str) -> LastTick | None:
        """See `Source`."""
        return None if self._feed is None else self._feed.last_tick(symbol)

    def renew(self, look: Callable[[], Any]) -> None:
        """See `Source`.

        Requests, candles and ticks hear of a dead token apart, each with the one that it had: when one of them tells,
        another may have brought the new login already. So it is asked whether the token is dead, and not believed.
        """
        if self._lives(look):
            self._pause(self._doubt_s, look)
            self._doubt_s = min(2 * self._doubt_s, _LONGEST_DOUBT_S)
            return
        self._token = wait_for_token(self._store, self._setup.account, self._clock, look, dead=self._token)
        self._doubt_s = _FIRST_DOUBT_S
        for client in (self._rest, self._past):
            client.use_token(self._token)

    def end_day(self, journal: Journal, rules: AccountRules, alarm: Callable[..., None]) -> DayEnd | None:
        """See `Source`."""
        if self._broker is None:
            return None
        return day_end(
            self._rest,
            self._broker.desk.books,
            journal.records(),
            session_date(self._clock.now_ns()),
            self._manifest.costs,
            product=_product(rules),
            opening_cash_paise=rules.balance_paise,
            alarm=alarm,
            patiently=self._broker.patiently,
        )

    def close(self) -> None:
        """See `Source`."""
        for client in (self._rest, self._past):
            client.close()
        self._limits.close()

    def _lives(self, look: Callable[[], Any]) -> bool:
        """Whether the broker still takes the token; asked until it says so or not."""
        while True:
            try:
                self._rest.profile()
            except AuthExpired:
                return False
            except BrokerError as error:
                log.warning("the broker does not say whether the login lives", error=str(error))
                self._pause(_FIRST_DOUBT_S, look)
            else:
                return True

    def _pause(self, seconds: float, look: Callable[[], Any]) -> None:
        """Wait so many seconds of the market, which may stand still: they are counted, and not read from its clock."""
        for _ in range(round(seconds)):
            look()
            self._clock.sleep(1.0)

    def _client(self) -> KiteRest:
        settings = self._settings
        return KiteRest(settings.api_key, self._token, self._limits, root=settings.root, timeout_s=settings.timeout_s)

    def _stream(self) -> KiteStream:
        root = self._settings.stream_root or KITE_STREAM
        patience = StreamPatience(silence_s=self._feed_settings.silence_s)
        return KiteStream(
            self._settings.api_key, self._token, list(self._tokens.values()), root=root, patience=patience
        )

    def _updated(self, fields: dict[str, Any]) -> None:
        if self._broker is not None:
            self._broker.on_order_update(fields)


def _product(rules: AccountRules) -> Product:
    return "MIS" if rules.product == "intraday" else "CNC"
