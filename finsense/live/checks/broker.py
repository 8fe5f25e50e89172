"""Checks that ask Kite: login, funds, instruments, history, ticks, positions; of the extra [kite]."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from finsense.live.brokers.errors import BrokerError, TransientRead
from finsense.live.checks import Checking, Finding, Scene, cross, ok, warning
from finsense.live.desk_books import DeskBooks
from finsense.live.feeds.instruments import InstrumentsError, confirm, todays_instruments
from finsense.live.feeds.kite_history import history
from finsense.live.feeds.kite_stream import KITE_STREAM, Connected, KiteStream, Lost, Patience, Ticks
from finsense.live.journal_format import Event, JournalError
from finsense.live.journal_reader import JournalReader
from finsense.live.orders import OrderRow, state_of
from finsense.live.reconcile import Difference, held_by_broker, table_text
from finsense.live.warm_up import session_ahead, sessions_before
from finsense.market.bars import BarsError
from finsense.market.calendar import CalendarError
from finsense.market.sanity import inspect

_SECOND_NS = 1_000_000_000
# How long ticks are waited for, real seconds.
_LISTEN_S = 15.0
_SHOWN = 3


def token(scene: Scene) -> Finding:
    """The login lives."""
    if scene.rest is None:
        return cross(scene.no_rest, scene.login())
    try:
        profile = scene.asked.profile()
    except TransientRead as error:
        return cross(f"the broker does not answer: {error}", "mend the connection, or wait until the broker is back")
    except BrokerError as error:
        return cross(str(error), scene.login())
    lacking = {"MIS", "CNC"} - set(profile.products)
    if "NSE" not in profile.exchanges or lacking:
        return cross(f"{profile.user_id} may not trade shares on NSE", "have the broker enable equity for the account")
    return ok(f"the login of {profile.user_id} lives")


def funds(scene: Scene) -> Finding:
    """The broker has the cash that the session counts on."""
    cash_paise = scene.asked.cash_paise()
    needed_paise, why = scene.rules.balance_paise, "the balance that the account begins with"
    known = _last_cash_paise(scene)
    if known is not None:
        needed_paise, why = known, "the cash of the journal's last bar"
    text = f"{cash_paise / 100:,.2f} rupees at the broker, {why} is {needed_paise / 100:,.2f}"
    if cash_paise < needed_paise:
        return cross(text, f"pay in, or lower `balance` in {scene.path}")
    return ok(text)


def _last_cash_paise(scene: Scene) -> int | None:
    path = scene.setup.journal("live")
    if not path.exists():
        return None
    with closing(JournalReader(path)) as journal:
        newest = deque(journal.records(), maxlen=1)
    return newest[0].cash_paise if newest else None


def instruments(scene: Scene) -> Finding:
    """Every symbol trades today, under the token of today's list."""
    try:
        listed = todays_instruments(scene.asked, scene.setup.home, scene.clock.now_ns())
        rows = listed.find(scene.setup.symbols)
        confirm(listed, scene.asked, scene.setup.ordered_symbols)
    except InstrumentsError as error:
        return cross(str(error), f"mend `symbols` in {scene.path}, or start later")
    return ok(f"{', '.join(rows)} trade today")


def warm_up(scene: Scene) -> Finding:
    """The bars that the state needs before today are there, without holes."""
    manifest = scene.bundle.manifest
    rows = todays_instruments(scene.asked, scene.setup.home, scene.clock.now_ns()).find(scene.setup.symbols)
    doubts = []
    for symbol, row in rows.items():
        known = scene.derivatives(symbol)
        try:
            date = session_ahead(scene.clock.now_ns(), known).date
            needed = sessions_before(date, manifest.interval, manifest.state.warmup, known)
            bars = history(
                scene.asked,
                symbol,
                row.token,
                manifest.interval,
                needed[0].date,
                needed[-1].date,
                clock=scene.clock,
                derivatives=known,
            )
        except (BarsError, CalendarError) as error:
            return cross(str(error), "wait for the vendor's archive, or leave the symbol out")
        if len(bars) < manifest.state.warmup:
            return cross(
                f"{symbol}: the warm-up needs {manifest.state.warmup} bars, the vendor has {len(bars)} since "
                f"{needed[0].date}",
                f"leave {symbol} out of {scene.path}",
            )
        doubts += [f"{symbol} {finding}" for finding in inspect(bars) if finding.kind.startswith("missing")]
    if doubts:
        return warning("; ".join(doubts[:_SHOWN]), "bars without a trade are normal in thin shares; else wait")
    return ok(f"{manifest.state.warmup} bars of each symbol before {scene.today}, without a gap")


def ticks(scene: Scene) -> Finding:
    """The stream takes us, and within the session its trades are fresh."""
    rows = todays_instruments(scene.asked, scene.setup.home, scene.clock.now_ns()).find(scene.setup.symbols)
    tokens = {row.token: symbol for symbol, row in rows.items()}
    root = scene.kite.stream_root or KITE_STREAM
    stream = KiteStream(
        scene.kite.api_key, scene.token, list(tokens), root=root, patience=Patience(poll_s=0.1, open_s=_LISTEN_S)
    )
    now_ns = scene.clock.now_ns()
    session = scene.session(scene.setup.ordered_symbols[0])
    trading = session is not None and any(begin <= now_ns < end for begin, end in session.windows)
    connected, fresh, trouble = _listen(scene, stream, tokens, trading)
    if not connected:
        return cross(f"the tick stream does not open: {trouble or 'no answer'}", "mend the connection, or wait")
    if not trading:
        return ok("the tick stream is open; ticks come with the session")
    stale = [symbol for symbol in rows if symbol not in fresh]
    if stale:
        return cross(
            f"no trade of {', '.join(stale)} is fresher than {scene.setup.gate.stale_s:g} s",
            f"wait for trades, leave thin shares out, or raise gate.stale_s in {scene.path}",
        )
    return ok(f"fresh trades of {', '.join(rows)}")


def _listen(scene: Scene, stream: KiteStream, tokens: Mapping[int, str], trading: bool) -> tuple[bool, set[str], str]:
    """Whether the stream opened, the symbols with a fresh trade, and the last trouble."""
    connected, fresh, trouble = False, set[str](), ""
    until_s = time.monotonic() + _LISTEN_S
    oldest_ns = scene.setup.gate.stale_s * _SECOND_NS
    for event in stream.events():
        if isinstance(event, Connected):
            connected = True
        elif isinstance(event, Lost):
            trouble = event.reason
        elif isinstance(event, Ticks):
            now_ns = scene.clock.now_ns()
            fresh |= {
                tokens[name] for name, tick in event.ticks if name in tokens and now_ns - tick.time_ns <= oldest_ns
            }
        if (connected and not trading) or len(fresh) == len(tokens) or time.monotonic() > until_s:
            stream.close()
            break
    return connected, fresh, trouble


class _ReadOnly:
    """The journal for books that are only looked at."""

    def __init__(self, journal: JournalReader) -> None:
        self._journal = journal

    def events(self) -> Iterator[Event]:
        """Every event."""
        return self._journal.events()

    def note(self, tag: str, what: str, body: Mapping[str, Any], time_ns: int) -> None:
        """Nothing may be written."""
        raise JournalError("a preflight writes nothing into a journal")


def positions(scene: Scene) -> Finding:
    """The broker holds what the journal says, and nobody else trades our symbols."""
    product = "MIS" if scene.rules.product == "intraday" else "CNC"
    held = held_by_broker(scene.asked, scene.setup.ordered_symbols, product)
    rows: list[OrderRow] = scene.asked.orders()
    path = scene.setup.journal("live")
    if not path.exists():
        foreign = {symbol: one.quantity for symbol, one in held.items() if one.quantity}
        open_rows = [row.order_id for row in rows if row.symbol in held and not state_of(row.status).over]
        if foreign or open_rows:
            return cross(
                f"there is no journal yet, and the broker has positions {foreign} and open orders {open_rows}",
                "close them, or trade other symbols",
            )
        return ok("a fresh start: no journal, no positions, no open orders")
    try:
        with closing(JournalReader(path)) as journal:
            books = DeskBooks(_ReadOnly(journal), scene.clock.now_ns)
    except JournalError as error:
        return cross(str(error), f"finsense journal verify {path}")
    strangers = [row for row in rows if not _ours(books, row) and _trades(row)]
    expected = _with_news(scene, books, rows)
    found = []
    for symbol, theirs in held.items():
        orders = tuple(row.order_id for row in strangers if row.symbol == symbol)
        if orders or theirs.quantity != expected[symbol]:
            found.append(Difference(symbol, expected[symbol], theirs.quantity, theirs.average_paise, orders))
    if found:
        return cross(f"journal and broker disagree\n{table_text(found)}", f"finsense reconcile {scene.path}")
    return ok("the broker holds what the journal says")


def _trades(row: OrderRow) -> bool:
    """Whether an order traded, or may still do so."""
    return row.filled_quantity > 0 or not state_of(row.status).over


def _ours(books: DeskBooks, row: OrderRow) -> bool:
    return books.order_of(row.order_id) is not None or any(tag in books.orders for tag in row.tags)


def _with_news(scene: Scene, books: DeskBooks, rows: list[OrderRow]) -> dict[str, int]:
    """Symbol -> shares by all trades, those included that the journal has not heard of and the loop will read first."""
    ours = {row.order_id for row in rows if _ours(books, row)}
    held = {symbol: books.held(symbol) for symbol in scene.setup.symbols}
    for trade in scene.asked.trades():
        if trade.order_id in ours and not books.known_trade(trade.order_id, trade.trade_id):
            held[trade.symbol] += trade.quantity if trade.side == "BUY" else -trade.quantity
    return held


FEED: dict[str, Checking] = {"token": token, "instruments": instruments, "warm-up": warm_up, "ticks": ticks}
TRADING: dict[str, Checking] = {"funds": funds, "positions": positions}
