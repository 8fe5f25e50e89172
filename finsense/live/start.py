"""Puts a session together from its setup and its source, and runs it to the end of its day."""

import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from finsense.account.joint import Books, JointSession
from finsense.account.joint_exchange import JointExchange
from finsense.config.live import SECRET, LiveSetup
from finsense.live.account_lock import AccountLock
from finsense.live.alarms import Alarms
from finsense.live.brokers import Broker
from finsense.live.brokers.errors import AuthExpired, BooksDiffer, HaltTrading
from finsense.live.brokers.paper import PaperBroker
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.clock import WallClock
from finsense.live.day_end import DayEnd
from finsense.live.gate import HARD_RATES, Gate, rate_limits
from finsense.live.heartbeat import Heartbeat
from finsense.live.journal import Journal, identity_text
from finsense.live.journal_format import JournalError
from finsense.live.kill_switch import KillSwitch, Outcome, pulled_by_signal
from finsense.live.last_wall import LastWall, Stopping
from finsense.live.loop import LiveLoop, Tell, quiet
from finsense.live.source import Source
from finsense.live.warm_up import session_ahead
from finsense.market.bars import INTERVAL_NS, ist_text
from finsense.market.calendar import DAY_NS, TradingSession, nse_calendar, session_date
from finsense.market.instruments import instrument
from finsense.model.bundle import Bundle

Mode = Literal["paper", "live"]
# Where no bar tells that the day is over, it is over so long after its close: candles of a lost stream come late.
_OVER_NS = 300_000_000_000
# And so many real seconds after the last bar.
_SILENT_S = 60.0

log = structlog.get_logger()


class Ended(NamedTuple):
    """How a session ended.

    Attributes:
        time_ns: start of the last bar that was traded, ns UTC; 0 for none.
        recovered: moments that the journal had when it began.
        books: of the account.
        refused: reason of the gate -> how many orders it stopped.
        alarms: kind -> how many.
        over: whether the day came to its end; false where the user stopped it, and after ruin.
        day: how the account compares with the broker's records of the day; None on paper, and where it is not over.
    """

    time_ns: int
    recovered: int
    books: Books
    refused: Mapping[str, int]
    alarms: Mapping[str, int]
    over: bool
    day: DayEnd | None


def trade(
    setup: LiveSetup,
    mode: Mode,
    bundle: Bundle,
    source: Source,
    secret: Callable[[str], str],
    stopping: Stopping,
    tell: Tell = quiet,
) -> Ended:
    """Run the session until its day is over; what the journal has already is recovered, not traded again.

    Args:
        setup: what runs.
        mode: paper trades on the simulated exchange and holds no client that could send an order.
        bundle: decides.
        source: history, bars and broker.
        secret: value of a named secret, for alarm and heartbeat addresses.
        stopping: the user's wish.
        tell: hears of every moment that was traded: bars, books, orders, what was refused.

    Raises:
        AccountBusy: another loop runs on the account.
        JournalError: the journal belongs to another session, does not replay, or cannot be written.
        HaltTrading: the kill switch is pulled, or something is doubtful.
        BooksDiffer: broker and journal disagree.
    """
    with ExitStack() as stack:
        stack.enter_context(AccountLock(setup.home, mode, setup.resolved()))
        switch = KillSwitch(setup.home)
        if switch.latched is not None:
            raise HaltTrading(f"the kill switch is latched: {switch.latched.reason}; `finsense kill --release`")
        stack.enter_context(pulled_by_signal(switch))
        try:
            return _Run(setup, mode, bundle, source, secret, stopping, switch, stack, tell).run()
        except sqlite3.Error as error:
            raise JournalError(_unwritable(setup.journal(mode), error)) from error


def identity_of(setup: LiveSetup, mode: Mode, bundle: Bundle) -> dict[str, str]:
    """What must be the same for a session to go on with its journal.

    Raises:
        LiveSetupError: setup and bundle do not go together.
    """
    manifest = bundle.manifest
    rules = setup.account_rules(manifest.account)
    return identity_text(
        mode=mode,
        account=setup.account,
        name=setup.name,
        bundle=bundle.identity,
        config=manifest.provenance.config_hash,
        symbols=list(setup.ordered_symbols),
        interval=manifest.interval,
        derivatives={
            symbol: instrument(symbol, derivatives=manifest.derivatives).derivatives for symbol in setup.ordered_symbols
        },
        # Without what stands at its default: a later version may have more of it.
        rules=rules.model_dump(mode="json", exclude_defaults=True),
        costs=manifest.costs.model_dump(mode="json", exclude_defaults=True),
        loosened=setup.remarks(),
        algo_id=getattr(setup.broker, "algo_id", None),
    )


class _Run:
    """One run of a session."""

    def __init__(
        self,
        setup: LiveSetup,
        mode: Mode,
        bundle: Bundle,
        source: Source,
        secret: Callable[[str], str],
        stopping: Stopping,
        switch: KillSwitch,
        stack: ExitStack,
        tell: Tell,
    ) -> None:
        manifest = bundle.manifest
        self._source, self._switch, self._stopping, self._clock = source, switch, stopping, source.clock
        self._interval = manifest.interval
        if mode == "live" and INTERVAL_NS[self._interval] >= DAY_NS:
            raise HaltTrading("a policy on daily bars decides after the close and trades on paper only, as yet")
        rules = setup.account_rules(manifest.account)
        self._stocks = [instrument(symbol, derivatives=manifest.derivatives) for symbol in setup.ordered_symbols]
        self._journal = stack.enter_context(Journal(setup.journal(mode), identity_of(setup, mode, bundle)))
        addresses = [_address(one, secret) for one in setup.alarms.webhooks]
        self._alarms = stack.enter_context(
            Alarms(setup.account, addresses, setup.alarms.timeout_s, self._clock, self._journal.note)
        )
        beat: Callable[[], None] = lambda: None  # noqa: E731
        if setup.heartbeat is not None:
            address = _address(setup.heartbeat.url, secret)
            beat = stack.enter_context(Heartbeat(setup.heartbeat, address, self._alarms)).beat
        self._gate = Gate(
            setup.gate,
            self._interval,
            switch,
            _closing(stack, RateLimits(setup.rates, rate_limits(setup.gate))),
            _closing(stack, RateLimits(setup.rates, HARD_RATES)),
            self._clock,
            derivatives={stock.symbol: stock.derivatives for stock in self._stocks},
            last_tick=source.last_tick,
            alarms=self._alarms,
            beat=beat,
        )
        terms = manifest.state, rules, manifest.costs
        self._session = JointSession(self._stocks, self._interval, *terms)
        exchange = JointExchange(self._stocks, self._interval, rules, manifest.costs) if mode == "paper" else None
        self._after_ns = self._warm(exchange)
        tags = f"{bundle.identity} {setup.account} {setup.name}"
        self._rules = rules
        self._broker: Broker = (
            PaperBroker(exchange)
            if exchange is not None
            else source.broker(self._journal, tags, rules, self._alarms.raise_, self._look)
        )
        wall = LastWall(self._gate, stopping)
        self._loop = LiveLoop(self._session, bundle.policy, self._broker, self._journal, wall, tell)

    def _warm(self, exchange: JointExchange | None) -> int:
        """Fold the history into the session; start of its last bar, ns UTC."""
        kept = self._journal.begin({} if self._journal.begun else self._source.history())
        for symbol, bars in kept.items():
            for bar in bars:
                self._session.warm(symbol, bar)
                if exchange is not None:
                    exchange.warm(symbol, bar)
        self._gate.begin({symbol: bars[-1].time_ns for symbol, bars in kept.items() if bars})
        return max((bars[-1].time_ns for bars in kept.values() if bars), default=0)

    def _look(self) -> None:
        """Look around while the broker is waited for; the latch that halts the loop must not halt its halting.

        Raises:
            HaltTrading: the kill switch is latched.
            KeyboardInterrupt: the user wants to leave; the journal knows what is open.
        """
        if self._loop.halting:
            return
        self._gate.look()
        if self._stopping.asked > 1:
            raise KeyboardInterrupt

    def run(self) -> Ended:
        """Recover and trade."""
        last_known_ns, now_ns = self._journal.last_time_ns, self._clock.now_ns()
        if last_known_ns is not None and last_known_ns > now_ns:
            raise HaltTrading(
                f"{self._journal.path} has a bar of {ist_text(last_known_ns)} and the clock of the market shows "
                f"{ist_text(now_ns)}: set the clock; a day that was rehearsed is rehearsed again with another `name`"
            )
        try:
            recovered, last_ns = self._trade(last_known_ns)
        except (HaltTrading, BooksDiffer) as halt:
            self._answer(halt)
            raise
        except sqlite3.Error as error:
            # Without a journal no order may be sent: people must look.
            self._alarms.raise_("journal", _unwritable(self._journal.path, error))
            raise
        except Exception as error:
            self._alarms.raise_("ended", f"the session ends: {type(error).__name__}: {error}")
            raise
        if self._stopping.asked > 1:
            # What works would fill unseen; protective stops go on resting.
            left = self._broker.stop_all(False)
            self._journal.note("", "left", left._asdict(), self._clock.now_ns())
        whole = self._loop.time_ns >= last_ns
        day = self._source.end_day(self._journal, self._rules, self._alarms.raise_) if whole else None
        return Ended(
            self._loop.time_ns,
            recovered,
            self._session.books(),
            {reason.value: count for reason, count in self._gate.refused.items()},
            dict(self._alarms.counts),
            whole,
            day,
        )

    def _trade(self, last_known_ns: int | None) -> tuple[int, int]:
        """Recover, and trade until the day is over; moments recovered, and the start of the day's last bar, ns UTC."""
        recovered = self._loop.recover()
        if last_known_ns is not None:
            self._after_ns = last_known_ns
            self._gate.begin(dict.fromkeys(self._session.symbols, last_known_ns))
        end_ns, last_ns = self._day()
        log.info("the session begins", recovered=recovered, until=ist_text(end_ns), bars_after=ist_text(self._after_ns))
        feed = self._source.feed(self._after_ns)
        over = _Over(self._clock, end_ns, last_ns)

        def stop() -> bool:
            return over.at(self._loop.time_ns) or self._stopping.asked > 1

        while True:
            try:
                self._loop.run(feed, stop)
                return recovered, last_ns
            except AuthExpired as error:
                self._alarms.raise_("token", f"the login is dead, no order leaves until there is a new one: {error}")
                self._source.renew(self._look)

    def _answer(self, halt: HaltTrading | BooksDiffer) -> None:
        """Tell whoever pulled the switch what was done."""
        self._alarms.raise_("halt", str(halt))
        latch, stopped = self._switch.latched, self._loop.stopped
        # Without knowing what became of the orders nothing is answered: whoever pulled it looks by himself.
        if latch is None or stopped is None:
            return
        outcome = Outcome("the loop", stopped.cancelled, stopped.still_open, dict(stopped.positions), ())
        self._switch.answer(latch, outcome)

    def _day(self) -> tuple[int, int]:
        """Close of the session that is traded and the start of its last bar, ns UTC.

        It is the one in progress, or today's if the journal broke off in it, or the next one.
        """
        step, now_ns = INTERVAL_NS[self._interval], self._clock.now_ns()

        def last_bar_ns(session: TradingSession) -> int:
            return session.open_ns if step >= DAY_NS else range(*session.windows[-1], step)[-1]

        known_ns = self._journal.last_time_ns
        begun = known_ns is not None and session_date(known_ns) == session_date(now_ns)
        sessions = []
        for stock in self._stocks:
            today = nse_calendar().session(session_date(now_ns), derivatives=stock.derivatives)
            broke_off = begun and today is not None and known_ns is not None and known_ns < last_bar_ns(today)
            sessions.append(today if today and broke_off else session_ahead(now_ns, stock.derivatives))
        return max(session.close_ns for session in sessions), max(map(last_bar_ns, sessions))


class _Over:
    """Tells when a day is over: with its last bar, or when long after its close nothing comes any more."""

    def __init__(self, clock: WallClock, end_ns: int, last_ns: int) -> None:
        self._clock, self._end_ns, self._last_ns = clock, end_ns, last_ns
        self._time_ns, self._since_s = 0, time.monotonic()

    def at(self, time_ns: int) -> bool:
        """Whether it is over, after the bar that starts at this instant."""
        if time_ns != self._time_ns:
            self._time_ns, self._since_s = time_ns, time.monotonic()
        silent = time.monotonic() - self._since_s > _SILENT_S
        return time_ns >= self._last_ns or (silent and self._clock.now_ns() >= self._end_ns + _OVER_NS)


def _unwritable(journal: Path, error: sqlite3.Error) -> str:
    return (
        f"{journal} cannot be written ({error}), so nothing more is sent: look whether its disk is full, look at the "
        "broker's book, then start again; protective stops go on resting at the exchange"
    )


def _address(channel: str, secret: Callable[[str], str]) -> str:
    return secret(channel.removeprefix(SECRET)) if channel.startswith(SECRET) else channel


def _closing(stack: ExitStack, limits: RateLimits) -> RateLimits:
    stack.callback(limits.close)
    return limits
