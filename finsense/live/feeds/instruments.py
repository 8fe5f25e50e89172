"""The broker's list of what trades today: taken once a day, kept with its date, and never used on another day."""

import csv
import datetime as dt
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

import structlog

from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.kite_rows import InstrumentRow
from finsense.live.durable import write_durably
from finsense.market.bars import Bars, ist_text, session_day
from finsense.market.calendar import IST, session_date
from finsense.market.instruments import tick_paise

# The vendor makes the list "on the trading days around 8 AM" and does not change it during the day (Kite forum, threads
# 8132 and 6814); a quarter of an hour later it is there.
LIST_FROM = dt.time(8, 15)
# A call of /quote/ltp takes a thousand.
_LTP_SYMBOLS = 1000
_FILE = "instruments.csv"
_TITLE = "NSE instruments of "
_NEAR, _SHOWN = 3, 5

log = structlog.get_logger()


class InstrumentsError(ValueError):
    """A list of another day, or a symbol that cannot be traded today."""


@dataclass(frozen=True)
class InstrumentList:
    """What the broker lists on NSE on one day.

    Attributes:
        date: the day, in India.
        rows: symbol -> its line; indices, which nobody can trade, are among them.
    """

    date: dt.date
    rows: Mapping[str, InstrumentRow]

    def find(self, symbols: Iterable[str]) -> dict[str, InstrumentRow]:
        """The lines of shares that can be traded, in alphabetic order.

        Raises:
            InstrumentsError: one of them is unknown, or no share; all that are wrong are named.
        """
        wanted = sorted(set(symbols))
        faults = [fault for symbol in wanted if (fault := self._fault(symbol))]
        if faults:
            raise InstrumentsError("; ".join(faults))
        return {symbol: self.rows[symbol] for symbol in wanted}

    def _fault(self, symbol: str) -> str:
        row = self.rows.get(symbol)
        if row is not None:
            return "" if _is_share(row) else f"{symbol} is no share but {row.kind} of the segment {row.segment}"
        names = [name for name, row in self.rows.items() if _is_share(row)]
        series = sorted(name for name in names if name.rpartition("-")[0] == symbol)
        if series:
            return (
                f"{symbol} is not listed on {self.date} under that name but as {', '.join(series)}: a series of its "
                "own, as of trade-to-trade shares, which cannot be sold on the day they are bought; leave it out"
            )
        near = get_close_matches(symbol.upper(), names, n=_NEAR)
        hint = f"did you mean {' or '.join(near)}?" if near else "it may be delisted, suspended or renamed"
        return f"{symbol} is not among the {len(names):,} shares that the broker lists on {self.date}: {hint}"


def todays_instruments(rest: KiteRest, home: Path, now_ns: int) -> InstrumentList:
    """Today's list: the copy in the home folder where it is of today, else the broker's, which is then kept there.

    Args:
        rest: asks the broker.
        home: folder of what must survive.
        now_ns: the instant now, ns UTC.

    Raises:
        InstrumentsError: today's list is not made yet, or the broker's is empty.
        BrokerError: it cannot be had; the list of another day never stands in.
    """
    today = session_date(now_ns)
    path = home / _FILE
    if path.exists():
        try:
            return read_instruments(path, today)
        except InstrumentsError as error:
            log.info("the list of instruments is taken anew", why=str(error))
    made_ns = int(dt.datetime.combine(today, LIST_FROM, IST).timestamp()) * 1_000_000_000
    if now_ns < made_ns:
        raise InstrumentsError(
            f"the list of {today} is made by {ist_text(made_ns)}, and it is {ist_text(now_ns)}: what the broker gives "
            "now is yesterday's; start again then"
        )
    rows = rest.instruments()
    if not rows:
        raise InstrumentsError(f"the broker's list of {today} is empty; ask again in a few minutes")
    found = InstrumentList(today, MappingProxyType({row.symbol: row for row in rows}))
    _keep(found, path)
    return found


def read_instruments(path: Path, date: dt.date) -> InstrumentList:
    """A list that was kept.

    Raises:
        InstrumentsError: it is of another day, or damaged.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    title = lines[0] if lines else ""
    wanted = f"{_TITLE}{date}"
    if title != wanted:
        raise InstrumentsError(f"{path}: expected {wanted!r}, found {title!r}: tokens and tick sizes change overnight")
    try:
        rows = {row["symbol"]: _kept_row(row) for row in csv.DictReader(lines[1:-1], strict=True)}
        if len(rows) != int(lines[-1].removesuffix(" rows")):
            raise ValueError(f"{len(rows)} rows")
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InstrumentsError(f"{path}: the list is damaged ({error}); it will be taken anew") from error
    return InstrumentList(date, MappingProxyType(rows))


def confirm(instruments: InstrumentList, rest: KiteRest, symbols: Sequence[str]) -> None:
    """Ask the exchange itself whether these shares can be had now under the tokens of the list.

    A list carries no date of the broker's, so this is what shows one of yesterday.

    Raises:
        InstrumentsError: the exchange does not know one of them today, or under another token.
        BrokerError: the answer cannot be had.
    """
    wanted = instruments.find(symbols)
    names = list(wanted)
    found: dict[str, tuple[int, int]] = {}
    for start in range(0, len(names), _LTP_SYMBOLS):
        found |= rest.ltp(names[start : start + _LTP_SYMBOLS])
    absent = [name for name in names if name not in found]
    if absent:
        raise InstrumentsError(
            f"the broker lists {_some(absent)} but gives no price: not tradable today (suspended, or moved to another "
            "series); leave them out"
        )
    moved = [name for name in names if found[name][0] != wanted[name].token]
    if moved:
        shown = _some([f"{name} ({wanted[name].token}, now {found[name][0]})" for name in moved])
        raise InstrumentsError(f"the list of {instruments.date} is not today's: other tokens for {shown}; take it anew")


def tick_doubt(row: InstrumentRow, date: dt.date, reference_close_paise: int) -> str:
    """What is odd about the tick size of the list, which is the one that orders must keep; empty where nothing is.

    Args:
        row: of the list of that day.
        date: the day.
        reference_close_paise: close of the last trading day of the month before; see `reference_close_paise`.
    """
    expected = tick_paise(date, reference_close_paise)
    if row.tick_paise == expected:
        return ""
    return (
        f"{row.symbol}: the broker lists a tick of {row.tick_paise} paise, and the exchange's table gives {expected} "
        f"for the close of {reference_close_paise / 100:.2f} at the end of the month before; the broker's is used"
    )


def reference_close_paise(bars: Bars, date: dt.date) -> int:
    """The close that decides the tick of a day: that of the last bar before its month, paise.

    Raises:
        InstrumentsError: the bars begin in the month itself.
    """
    before = int(bars.session_days.searchsorted(session_day(date.replace(day=1))))
    if not before:
        raise InstrumentsError(f"{bars.symbol}: expected a bar before {date:%B %Y}, found {bars}")
    return round(float(bars.close[before - 1]) * 100)


def _keep(instruments: InstrumentList, path: Path) -> None:
    text = io.StringIO()
    text.write(f"{_TITLE}{instruments.date}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(InstrumentRow._fields)
    writer.writerows(instruments.rows.values())
    text.write(f"{len(instruments.rows)} rows\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, text.getvalue().encode())


def _kept_row(row: Mapping[str, str]) -> InstrumentRow:
    return InstrumentRow(
        int(row["token"]),
        row["symbol"],
        row["name"],
        int(row["tick_paise"]),
        int(row["lot"]),
        row["kind"],
        row["segment"],
    )


def _is_share(row: InstrumentRow) -> bool:
    return row.segment == "NSE" and row.kind == "EQ"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
