"""Price bars of one symbol: validated once at the door, read-only from then on."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import starmap
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from finsense.market.calendar import DAY_NS, IST, MINUTE_NS, CalendarError, TradingSession, nse_calendar
from finsense.market.extra_fields import EXTRA_FIELDS, FLOW_FIELDS, NEVER_ZERO
from finsense.market.instruments import instrument
from finsense.market.windows import place_in_windows, trading_windows

INTERVAL_NS: dict[str, int] = {
    "1m": MINUTE_NS,
    "3m": 3 * MINUTE_NS,
    "5m": 5 * MINUTE_NS,
    "10m": 10 * MINUTE_NS,
    "15m": 15 * MINUTE_NS,
    "30m": 30 * MINUTE_NS,
    "60m": 60 * MINUTE_NS,
    "1d": DAY_NS,
}
# Below one paisa a price vanishes in integer paise; at a crore of rupees quantity x price nears the edge of int64.
PRICE_MIN = 0.01
PRICE_LIMIT = 1e7
IST_OFFSET_NS = 330 * MINUTE_NS
_PRICE_COLUMNS = ("open", "high", "low", "close")
_ROWS_SHOWN = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DATE = date(1970, 1, 1)


class BarsError(ValueError):
    """Bars that cannot be trusted, or a span that they do not cover."""


class Bar(NamedTuple):
    """One bar in plain Python numbers.

    Attributes:
        time_ns: Start of the bar, ns UTC.
        open: First price, rupees.
        high: Highest price, rupees.
        low: Lowest price, rupees.
        close: Last price, rupees.
        volume: Shares traded; 0 where the exchange publishes none (indices).
        extra: Nothing, or one value per name of `EXTRA_FIELDS`, 0.0 for those that are not known.
    """

    time_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: int
    extra: tuple[float, ...] = ()


def ist_text(time_ns: int) -> str:
    """The instant `time_ns` (ns UTC) as readers of NSE data expect it, e.g. `2023-07-03 09:15 IST`."""
    moment = (_EPOCH + timedelta(microseconds=time_ns // 1000)).astimezone(IST)
    exact_minute = time_ns % MINUTE_NS == 0
    return f"{moment:%Y-%m-%d %H:%M} IST" if exact_minute else f"{moment:%Y-%m-%d %H:%M:%S.%f} IST"


def session_day(day: date) -> int:
    """Days from 1970-01-01 to `day`, the number that `Bars.session_days` holds."""
    return (day - _EPOCH_DATE).days


def day_date(day: int) -> date:
    """The date that lies `day` days after 1970-01-01."""
    return _EPOCH_DATE + timedelta(days=int(day))


@dataclass(frozen=True, eq=False, repr=False)
class Bars:
    """Bars of one symbol in time order, on the grid of the exchange's sessions.

    The arrays are copied, checked and made read-only. Two Bars hold the same data when their `data_hash` is equal.

    Attributes:
        symbol: Trading symbol, e.g. `RELIANCE`.
        interval: A key of `INTERVAL_NS`.
        time_ns: (n,) int64, ns UTC, start of each bar; a daily bar starts at its session's `open_ns`.
        open: (n,) float64, rupees.
        high: (n,) float64, rupees.
        low: (n,) float64, rupees.
        close: (n,) float64, rupees.
        volume: (n,) int64, shares.
        derivatives: Whether the stock has derivatives, which decides its hours since 2026-08-03; None takes
            what is known of the symbol.
        extra: Name of `EXTRA_FIELDS` -> (n,) float64; a name that is absent is not known.

    Raises:
        BarsError: On the first kind of fault found, with its count and the first three rows.
    """

    symbol: str
    interval: str
    time_ns: npt.NDArray[np.int64]
    open: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    close: npt.NDArray[np.float64]
    volume: npt.NDArray[np.int64]
    derivatives: bool | None = None
    extra: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.symbol or self.symbol != self.symbol.strip():
            raise BarsError(f"bars need a trading symbol without blanks around it, found {self.symbol!r}")
        if self.interval not in INTERVAL_NS:
            raise BarsError(f"{self.symbol}: unknown interval {self.interval!r}; known are {', '.join(INTERVAL_NS)}")
        if self.derivatives is None:
            object.__setattr__(self, "derivatives", instrument(self.symbol).derivatives)
        self._freeze_arrays()
        self._freeze_extra()
        self._check_prices()
        self._check_order()
        self._check_grid()

    def _freeze_arrays(self) -> None:
        for name in ("time_ns", *_PRICE_COLUMNS, "volume"):
            given = np.asarray(getattr(self, name))
            whole = name in ("time_ns", "volume")
            if given.ndim != 1 or given.dtype.kind not in ("iu" if whole else "iuf"):
                wanted = "a 1-D array of integers" if whole else "a 1-D array of numbers"
                raise BarsError(f"{self.symbol}: {name} must be {wanted}, found {given.ndim}-D {given.dtype}")
            kept = given.astype(np.int64 if whole else np.float64)
            kept.flags.writeable = False
            object.__setattr__(self, name, kept)
        lengths = {name: len(getattr(self, name)) for name in ("time_ns", *_PRICE_COLUMNS, "volume")}
        if len(set(lengths.values())) > 1:
            raise BarsError(f"{self.symbol}: columns differ in length: {lengths}")
        if not len(self.time_ns):
            raise BarsError(f"{self.symbol}: no bars")

    def _freeze_extra(self) -> None:
        unknown = sorted(set(self.extra) - set(EXTRA_FIELDS))
        if unknown:
            raise BarsError(f"{self.symbol}: unknown extra {', '.join(unknown)}; known are {', '.join(EXTRA_FIELDS)}")
        if "ticks" not in self.extra and set(self.extra) & set(FLOW_FIELDS):
            raise BarsError(f"{self.symbol}: {', '.join(self.extra)} come from ticks; give their number as `ticks`")
        kept = {}
        for name in (name for name in EXTRA_FIELDS if name in self.extra):
            values = np.array(self.extra[name], np.float64)
            if values.shape != self.time_ns.shape:
                raise BarsError(f"{self.symbol}: {name} must hold one number per bar, found shape {values.shape}")
            self._refuse(~np.isfinite(values), f"have {name} that is not a finite number")
            if name in NEVER_ZERO:
                self._refuse(values <= 0, f"have {name} of zero or less")
            values.flags.writeable = False
            kept[name] = values
        object.__setattr__(self, "extra", MappingProxyType(kept))

    def _check_prices(self) -> None:
        for name in _PRICE_COLUMNS:
            price, named = getattr(self, name), f"an {name}" if name == "open" else f"a {name}"
            self._refuse(~np.isfinite(price), f"have {named} that is not a finite number")
            self._refuse(price < PRICE_MIN, f"have {named} below one paisa; prices are rupees above zero")
            self._refuse(price >= PRICE_LIMIT, f"have {named} of {PRICE_LIMIT:,.0f} rupees or more")
        self._refuse(self.high < self.low, "have a high below the low")
        self._refuse(self.high < np.maximum(self.open, self.close), "have a high below the open or the close")
        self._refuse(self.low > np.minimum(self.open, self.close), "have a low above the open or the close")
        self._refuse(self.volume < 0, "have a negative volume")

    def _check_order(self) -> None:
        before, after = self.time_ns[:-1], self.time_ns[1:]
        self._refuse(np.append(False, after < before), "go back in time; sort them by time")
        self._refuse(np.append(False, after == before), "repeat the time of the bar before; keep one bar per time")

    def _check_grid(self) -> None:
        calendar = nse_calendar()
        first_ns = session_day(calendar.first_date) * DAY_NS - IST_OFFSET_NS
        stop_ns = (session_day(calendar.last_date) + 1) * DAY_NS - IST_OFFSET_NS
        unknown = (self.time_ns < first_ns) | (self.time_ns >= stop_ns)
        self._refuse(unknown, f"lie outside the known NSE calendar ({calendar.first_date} to {calendar.last_date})")
        # The opening is the same for every stock of a day, so a daily bar needs no knowledge of its derivatives.
        sessions = self._sessions(derivatives=False if self.interval == "1d" else self.derivatives)
        closed = [day for day, session in zip(self._days.tolist(), sessions, strict=True) if session is None]
        if closed:
            dates = [day_date(day) for day in closed[:_ROWS_SHOWN]]
            names = ", ".join(f"{day:%A} {day} ({calendar.closed_reason(day)})" for day in dates)
            self._refuse(np.isin(self.session_days, closed), f"lie on days without a session: {names}")
        if self.interval == "1d":
            open_ns = np.array([session.open_ns for session in sessions if session is not None], dtype=np.int64)
            off_grid = self.time_ns != np.repeat(open_ns, np.diff(self.session_offsets))
            self._refuse(off_grid, "are daily but do not start at their session's opening")
            return
        start_ns, outside = place_in_windows(self.time_ns, trading_windows(sessions))
        self._refuse(outside, "start outside the session's hours", hours=True)
        self._refuse((self.time_ns - start_ns) % self.interval_ns != 0, f"are off the {self.interval} grid", hours=True)

    def _refuse(self, at_fault: npt.NDArray[np.bool_], what: str, *, hours: bool = False) -> None:
        rows = np.flatnonzero(at_fault)
        if not len(rows):
            return
        shown = "".join(f"\n  {self._row_text(row)}" for row in rows[:_ROWS_SHOWN])
        note = ""
        if hours:
            session = nse_calendar().session(day_date(self.session_days[rows[0]]), derivatives=self.derivatives)
            assert session is not None
            spans = ", ".join(f"{ist_text(start)[11:16]}-{ist_text(end)[11:16]}" for start, end in session.windows)
            note = f" (the {session.kind} session of {session.date} trades {spans}; a bar is stamped at its start)"
        raise BarsError(f"{self.symbol} {self.interval}: {len(rows)} of {len(self)} bars {what}{note}:{shown}")

    def _row_text(self, row: int) -> str:
        prices = " ".join(f"{name} {getattr(self, name)[row]:.10g}" for name in _PRICE_COLUMNS)
        return f"row {row}: {ist_text(int(self.time_ns[row]))} {prices} volume {self.volume[row]}"

    def __len__(self) -> int:
        return len(self.time_ns)

    def __iter__(self) -> Iterator[Bar]:
        """The bars in time order, in plain Python numbers."""
        columns: list[list[Any]] = [column.tolist() for column in self._columns]
        if self.extra:
            unknown = [0.0] * len(self)
            extra = [self.extra[name].tolist() if name in self.extra else unknown for name in EXTRA_FIELDS]
            columns.append(list(zip(*extra, strict=True)))
        return starmap(Bar, zip(*columns, strict=True))

    def __reduce__(self) -> tuple[type["Bars"], tuple[object, ...]]:
        # Built anew in another process: checked, and read-only, which numpy forgets in a pickle.
        return Bars, (self.symbol, self.interval, *self._columns, self.derivatives, dict(self.extra))

    def __repr__(self) -> str:
        first, last = ist_text(int(self.time_ns[0])), ist_text(int(self.time_ns[-1]))
        return f"Bars({self.symbol} {self.interval}, {len(self)} bars, {first} to {last})"

    @property
    def interval_ns(self) -> int:
        """Length of a bar in ns (a daily bar counts as 24 hours)."""
        return INTERVAL_NS[self.interval]

    @property
    def first_date(self) -> date:
        """IST date of the first bar."""
        return day_date(self.session_days[0])

    @property
    def last_date(self) -> date:
        """IST date of the last bar."""
        return day_date(self.session_days[-1])

    @cached_property
    def session_days(self) -> npt.NDArray[np.int64]:
        """(n,) int64, IST date of each bar in days since 1970-01-01."""
        days = (self.time_ns + IST_OFFSET_NS) // DAY_NS
        days.flags.writeable = False
        return days

    @cached_property
    def session_offsets(self) -> npt.NDArray[np.int64]:
        """(sessions + 1,) int64, the row where each session begins, and at the end the number of bars."""
        starts = np.flatnonzero(np.diff(self.session_days, prepend=self.session_days[0] - 1))
        offsets = np.append(starts, len(self)).astype(np.int64)
        offsets.flags.writeable = False
        return offsets

    @property
    def _columns(self) -> tuple[npt.NDArray[np.int64] | npt.NDArray[np.float64], ...]:
        return (self.time_ns, self.open, self.high, self.low, self.close, self.volume)

    @property
    def _days(self) -> npt.NDArray[np.int64]:
        return self.session_days[self.session_offsets[:-1]]

    @cached_property
    def sessions(self) -> tuple[TradingSession, ...]:
        """The exchange's session of each day that has bars, in time order.

        Raises:
            BarsError: Where the hours depend on whether the stock has derivatives and that is not known.
        """
        return tuple(session for session in self._sessions(self.derivatives) if session is not None)

    def _sessions(self, derivatives: bool | None) -> list[TradingSession | None]:
        try:
            return [nse_calendar().session(day_date(day), derivatives=derivatives) for day in self._days]
        except CalendarError as error:
            raise BarsError(f"{self.symbol} {self.interval}: {error}") from error

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 (hex) over symbol, interval, and the columns and what is known beyond them, little-endian."""
        digest = hashlib.sha256(f"bars-1\n{self.symbol}\n{self.interval}\n{len(self)}\n".encode())
        for column in self._columns:
            digest.update(column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes())
        for name, values in self.extra.items():
            digest.update(f"{name}\n".encode() + values.astype("<f8", copy=False).tobytes())
        return digest.hexdigest()

    def take(self, start: int, stop: int) -> "Bars":
        """The bars of rows `start` to `stop` (exclusive).

        Raises:
            BarsError: When the rows are not rows of these bars, or none are left.
        """
        if not 0 <= start < stop <= len(self):
            raise BarsError(f"{self.symbol}: rows {start} to {stop} of {len(self)} bars hold none")
        columns = {name: getattr(self, name)[start:stop] for name in ("time_ns", *_PRICE_COLUMNS, "volume")}
        return replace(self, **columns, extra={name: values[start:stop] for name, values in self.extra.items()})

    def between(self, first: date | None = None, last: date | None = None) -> "Bars":
        """The bars of the IST dates `first` to `last`, both inclusive; None is the end of the data on that side.

        A bound may lie beyond the data only over days on which the exchange was closed.

        Raises:
            BarsError: When the span asks for sessions that the data do not reach, or holds no bar.
        """
        covered = f"the data cover {self.first_date} to {self.last_date}"
        if first is not None and last is not None and first > last:
            raise BarsError(f"{self.symbol}: the span {first} to {last} ends before it begins")
        beyond = [
            self._trades(first, self.first_date - timedelta(days=1)) if first is not None else False,
            self._trades(self.last_date + timedelta(days=1), last) if last is not None else False,
        ]
        start = 0 if first is None else int(np.searchsorted(self.session_days, session_day(first), side="left"))
        stop = len(self) if last is None else int(np.searchsorted(self.session_days, session_day(last), side="right"))
        span = f"{first or self.first_date} to {last or self.last_date}"
        if any(beyond):
            raise BarsError(f"{self.symbol} {self.interval}: {span} reaches outside the data; {covered}")
        if start >= stop:
            raise BarsError(f"{self.symbol} {self.interval}: no bars from {span}; {covered}")
        return self.take(start, stop)

    @staticmethod
    def _trades(first: date, last: date) -> bool:
        """Whether the exchange traded between two dates; True where the calendar does not reach."""
        calendar = nse_calendar()
        if first > last:
            return False
        if first < calendar.first_date or last > calendar.last_date:
            return True
        return bool(calendar.sessions(first, last, derivatives=False))
