"""Kite's past as bars, and its list of the day: chunks, traps and holes, with the real client on a real server."""

import datetime as dt
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("kiteconnect")

import json

from finsense.live.brokers.errors import AuthExpired, ProtocolError, TransientRead
from finsense.live.brokers.kite_rest import InstrumentRow, KiteRest
from finsense.live.brokers.rate_limits import Limit, RateLimits
from finsense.live.feeds.instruments import (
    InstrumentList,
    InstrumentsError,
    confirm,
    read_instruments,
    reference_close_paise,
    tick_doubt,
    todays_instruments,
)
from finsense.live.feeds.kite_history import SPAN_DAYS, HistoryMissing, history
from finsense.market.bars import Bars, BarsError, ist_text
from finsense.market.calendar import IST, MINUTE_NS, nse_calendar

DAY = dt.date(2026, 7, 15)
TOKEN = 408065
FREE = {name: (Limit(10_000, 1),) for name in ("order", "quote", "historical", "other")}
DUMP = """instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,\
instrument_type,segment,exchange
408065,1594,INFY,INFOSYS,0,,0,0.1,1,EQ,NSE,NSE
2953217,11536,TCS,TATA CONSULTANCY SERV LT,0,,0,0.1,1,EQ,NSE,NSE
519937,2031,M&M,MAHINDRA & MAHINDRA,0,,0,0.1,1,EQ,NSE,NSE
1000193,3907,SLOW-BE,SLOW LIMITED,0,,0,0.05,1,EQ,NSE,NSE
256265,1001,NIFTY 50,NIFTY 50,0,,0,0,0,EQ,INDICES,NSE
"""


class Clock:
    """Stands still; waiting is written down."""

    def __init__(self, moment: dt.datetime) -> None:
        self.time_ns = int(moment.timestamp()) * 1_000_000_000
        self.waited_s: list[float] = []

    def now_ns(self) -> int:
        return self.time_ns

    def sleep(self, seconds: float) -> None:
        self.waited_s.append(seconds)


def ist(day: dt.date, clock: str) -> dt.datetime:
    return dt.datetime.combine(day, dt.time.fromisoformat(clock), IST)


class Vendor:
    """Answers as Kite does: every minute of every session, the running candle included, unless told otherwise."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, str]] = []
        self.silent_days: set[dt.date] = set()
        self.extra: list[list[Any]] = []
        self.failures: list[tuple[int, str, str]] = []
        self.dump, self.downloads = DUMP, 0
        self.ltp = {"INFY": TOKEN, "TCS": 2953217, "M&M": 519937}
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, kind, body = vendor.answer(self.path)
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.root = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path: str) -> tuple[int, str, str]:
        if self.failures:
            return self.failures.pop(0)
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        if parts.path == "/instruments/NSE":
            self.downloads += 1
            return 200, "text/csv", self.dump
        if parts.path == "/quote/ltp":
            found = {name: self.ltp.get(name.removeprefix("NSE:")) for name in query["i"]}
            return self.good({name: {"instrument_token": t, "last_price": 1.5} for name, t in found.items() if t})
        _, _, _, token, interval = parts.path.split("/")
        first, last = query["from"][0], query["to"][0]
        self.asked.append((token, interval, first, last))
        rows = self.candles(interval, first, last) if token == str(TOKEN) else []
        return self.good({"candles": rows + self.extra})

    @staticmethod
    def good(data: Any) -> tuple[int, str, str]:
        return 200, "application/json", json.dumps({"status": "success", "data": data})

    def candles(self, interval: str, first: str, last: str) -> list[list[Any]]:
        step = {"day": 24 * 60}.get(interval) or int(interval.removesuffix("minute") or 1)
        begin, end = (dt.datetime.fromisoformat(text).replace(tzinfo=IST) for text in (first, last))
        rows: list[list[Any]] = []
        for session in nse_calendar().sessions(begin.date(), end.date(), derivatives=False):
            if session.date in self.silent_days:
                continue
            opening = session.open_ns if interval != "day" else int(ist(session.date, "00:00").timestamp()) * 10**9
            close = session.close_ns if interval != "day" else opening + 1
            for start_ns in range(opening, close, step * MINUTE_NS):
                start = dt.datetime.fromtimestamp(start_ns // 10**9, IST)
                if begin <= start <= end:
                    rows.append([f"{start:%Y-%m-%dT%H:%M:%S}+0530", 1500, 1501.5, 1499.05, 1500.1, 10 + len(rows)])
        return rows


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    made = Vendor()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def rest(vendor: Vendor, tmp_path: Path) -> Iterator[KiteRest]:
    client = KiteRest("key", "thetoken", RateLimits(tmp_path / "limits.db", FREE), root=vendor.root)
    yield client
    client.close()


def past(rest: KiteRest, first: dt.date, last: dt.date, interval: str = "15m", **options: Any) -> Bars:
    clock = options.pop("clock", None) or Clock(ist(dt.date(2026, 7, 31), "20:00"))
    token = options.pop("token", TOKEN)
    return history(rest, "INFY", token, interval, first, last, clock=clock, **options)


@pytest.mark.parametrize("interval", SPAN_DAYS)
def test_every_request_keeps_to_the_vendors_days(interval: str, vendor: Vendor, rest: KiteRest) -> None:
    first = dt.date(2019, 1, 1) if interval == "1d" else DAY - dt.timedelta(days=SPAN_DAYS[interval] + 20)
    bars = past(rest, first, DAY, interval)
    spans = [(dt.datetime.fromisoformat(one[2]), dt.datetime.fromisoformat(one[3])) for one in vendor.asked]
    assert all((end - begin).days < SPAN_DAYS[interval] for begin, end in spans)
    # They touch, and none asks for an instant twice.
    assert [begin for begin, _ in spans[1:]] == [end + dt.timedelta(seconds=1) for _, end in spans[:-1]]
    assert (spans[0][0].date(), spans[-1][1].date()) == (first, DAY)
    sessions = nse_calendar().sessions(first, DAY, derivatives=True)
    assert [session.date for session in bars.sessions] == [session.date for session in sessions]
    assert len(bars) == sum(
        1 if interval == "1d" else -(-(end - start) // bars.interval_ns)
        for session in sessions
        for start, end in (session.windows if interval != "1d" else [(0, 1)])
    )


def test_the_prices_and_times_are_those_of_the_vendor(rest: KiteRest, vendor: Vendor) -> None:
    bars = past(rest, DAY, DAY)
    first = next(iter(bars))
    assert (ist_text(first.time_ns), *first[1:6]) == (f"{DAY} 09:15 IST", 1500.0, 1501.5, 1499.05, 1500.1, 10)
    # The client drops the zone of what it is given instead of converting it.
    assert vendor.asked == [(str(TOKEN), "15minute", f"{DAY} 00:00:00", f"{DAY} 23:59:59")]
    daily = past(rest, DAY, DAY, "1d")
    assert ist_text(int(daily.time_ns[0])) == f"{DAY} 09:15 IST"


@pytest.mark.parametrize(
    ("clock", "interval", "last"),
    [
        ("10:00:04", "15m", "09:30"),
        ("10:00:05", "15m", "09:45"),
        ("15:30:04", "60m", "14:15"),
        ("15:30:05", "60m", "15:15"),
        ("15:59:59", "1d", None),
        ("16:00:00", "1d", "09:15"),
    ],
)
def test_a_candle_that_still_forms_is_left_out(clock: str, interval: str, last: str | None, rest: KiteRest) -> None:
    before = DAY - dt.timedelta(days=1)
    bars = past(rest, before, DAY, interval, clock=Clock(ist(DAY, clock)))
    wanted = f"{before} 09:15 IST" if last is None else f"{DAY} {last} IST"
    assert ist_text(int(bars.time_ns[-1])) == wanted


def test_no_answer_is_not_no_trades(vendor: Vendor, rest: KiteRest) -> None:
    with pytest.raises(HistoryMissing, match=r"no candle for 3 of 3 sessions, first 2026-07-13.*another day's"):
        past(rest, DAY - dt.timedelta(days=2), DAY, token=999)
    vendor.silent_days = {DAY - dt.timedelta(days=1)}
    with pytest.raises(HistoryMissing, match="no candle for 1 of 3 sessions, first 2026-07-14"):
        past(rest, DAY - dt.timedelta(days=2), DAY)
    assert len(past(rest, DAY - dt.timedelta(days=2), DAY, missing_sessions=1).sessions) == 2
    with pytest.raises(HistoryMissing, match="has ended yet"):
        past(rest, DAY, DAY, clock=Clock(ist(DAY, "09:16")))


def test_the_grid_of_a_split_session_is_ours(rest: KiteRest) -> None:
    # The vendor counts hours from 09:15 through the pause, the second window from its own start.
    split = dt.date(2024, 5, 18)
    assert [ist_text(time_ns) for time_ns in past(rest, split, split, "60m").time_ns.tolist()] == [f"{split} 09:15 IST"]
    assert len(past(rest, split, split, "15m")) == 3 + 4


def test_candles_outside_continuous_trading_are_left_out(vendor: Vendor, rest: KiteRest) -> None:
    vendor.extra = [[f"{DAY}T15:40:00+0530", 1, 1, 1, 1, 1], [f"{DAY}T08:45:00+0530", 1, 1, 1, 1, 1]]
    assert past(rest, DAY, DAY).low.min() == 1499.05


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([f"{DAY}T09:20:00+0530", 1, 1, 1, 1], ProtocolError),
        ([f"{DAY}T09:20:00", 1, 1, 1, 1, 1], ProtocolError),
        ([f"{DAY}T09:20:00+0530", None, 1, 1, 1, 1], ProtocolError),
        ([f"{DAY}T09:20:00+0530", 1, 1, 1, 1, 1.5], ProtocolError),
        ([f"{DAY}T09:20:00+0530", 1, 1, 1, 1, 1], BarsError),
        ([f"{DAY}T09:15:00+0530", 1, 1, 1, 1, 1], BarsError),
        ([f"{DAY}T15:15:00+0530", 2, 1, 1, 1, 1], BarsError),
    ],
)
def test_candles_that_cannot_be_trusted_are_refused(
    row: list[Any], told: type[Exception], vendor: Vendor, rest: KiteRest
) -> None:
    vendor.extra = [row]
    with pytest.raises(told):
        past(rest, DAY, DAY)


def test_patience_with_gateways_and_none_with_a_dead_token(vendor: Vendor, rest: KiteRest) -> None:
    clock = Clock(ist(DAY, "20:00"))
    page = (502, "text/html", "<html>502</html>")
    many = (
        429,
        "application/json",
        json.dumps({"status": "error", "message": "Too many requests", "data": None, "error_type": "NetworkException"}),
    )
    vendor.failures = [page, many, page]
    assert len(past(rest, DAY, DAY, clock=clock)) == 25
    assert len(clock.waited_s) == 3
    vendor.failures = [page] * 6
    with pytest.raises(TransientRead):
        past(rest, DAY, DAY, clock=clock)
    dead = {"status": "error", "message": "Token is invalid.", "data": None, "error_type": "TokenException"}
    vendor.failures = [(403, "application/json", json.dumps(dead))]
    with pytest.raises(AuthExpired):
        past(rest, DAY, DAY, clock=clock)
    with pytest.raises(BarsError, match="unknown interval '2m'"):
        past(rest, DAY, DAY, "2m")


def now(clock: str, day: dt.date = DAY) -> int:
    return int(ist(day, clock).timestamp()) * 1_000_000_000


def test_the_list_of_the_day_is_kept_and_never_used_on_another(vendor: Vendor, rest: KiteRest, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = todays_instruments(rest, home, now("08:20"))
    assert found.find(["M&M", "INFY"]) == {
        "INFY": InstrumentRow(TOKEN, "INFY", "INFOSYS", 10, 1, "EQ", "NSE"),
        "M&M": InstrumentRow(519937, "M&M", "MAHINDRA & MAHINDRA", 10, 1, "EQ", "NSE"),
    }
    again = todays_instruments(rest, home, now("15:00"))
    assert (dict(again.rows), again.date, vendor.downloads) == (dict(found.rows), DAY, 1)
    tomorrow = DAY + dt.timedelta(days=1)
    with pytest.raises(InstrumentsError, match=r"expected 'NSE instruments of 2026-07-16', found .*2026-07-15'"):
        read_instruments(home / "instruments.csv", tomorrow)
    # Before today's is made, yesterday's does not stand in, neither the copy nor what the broker still gives.
    with pytest.raises(InstrumentsError, match="is made by 2026-07-16 08:15 IST"):
        todays_instruments(rest, home, now("08:14", tomorrow))
    vendor.failures = [(502, "text/html", "<html></html>")]
    with pytest.raises(TransientRead):
        todays_instruments(rest, home, now("09:00", tomorrow))
    assert todays_instruments(rest, home, now("09:00", tomorrow)).date == tomorrow
    assert vendor.downloads == 2


@pytest.mark.parametrize("cut", [0, 10, 40, 200, -3, -9])
def test_a_damaged_copy_is_taken_anew(cut: int, vendor: Vendor, rest: KiteRest, tmp_path: Path) -> None:
    todays_instruments(rest, tmp_path, now("09:00"))
    path = tmp_path / "instruments.csv"
    path.write_text(path.read_text()[:cut])
    with pytest.raises(InstrumentsError):
        read_instruments(path, DAY)
    assert len(todays_instruments(rest, tmp_path, now("09:00")).rows) == 5
    assert vendor.downloads == 2


def test_an_empty_list_is_refused(vendor: Vendor, rest: KiteRest, tmp_path: Path) -> None:
    vendor.dump = DUMP.splitlines()[0] + "\n"
    with pytest.raises(InstrumentsError, match="is empty"):
        todays_instruments(rest, tmp_path, now("09:00"))
    assert not (tmp_path / "instruments.csv").exists()


@pytest.fixture
def listed(rest: KiteRest, tmp_path: Path) -> InstrumentList:
    found = todays_instruments(rest, tmp_path / "list", now("09:00"))
    shutil.rmtree(tmp_path / "list")
    return found


@pytest.mark.parametrize(
    ("symbol", "told"),
    [
        ("INFI", "INFI is not among the 4 shares .*did you mean INFY"),
        ("infy", "did you mean INFY"),
        ("ZZZZZZ", "delisted, suspended or renamed"),
        ("SLOW", "not listed on 2026-07-15 under that name but as SLOW-BE: .*trade-to-trade"),
        ("NIFTY 50", "is no share but EQ of the segment INDICES"),
    ],
)
def test_a_symbol_that_cannot_be_traded_is_named(symbol: str, told: str, listed: InstrumentList) -> None:
    with pytest.raises(InstrumentsError, match=told):
        listed.find(["TCS", symbol])


def test_the_exchange_confirms_the_list(vendor: Vendor, rest: KiteRest, listed: InstrumentList) -> None:
    confirm(listed, rest, ["INFY", "M&M"])
    vendor.ltp["TCS"] = 5
    with pytest.raises(InstrumentsError, match=r"not today's: other tokens for TCS \(2953217, now 5\)"):
        confirm(listed, rest, ["INFY", "TCS"])
    del vendor.ltp["TCS"]
    with pytest.raises(InstrumentsError, match="lists TCS but gives no price: not tradable today"):
        confirm(listed, rest, ["INFY", "TCS"])


def test_a_tick_that_is_not_the_exchanges_rule_is_doubted(rest: KiteRest, listed: InstrumentList) -> None:
    bars = past(rest, dt.date(2026, 6, 25), DAY, "1d")
    reference = reference_close_paise(bars, DAY)
    assert reference == 150_010
    assert tick_doubt(listed.rows["INFY"], DAY, reference) == ""
    assert "a tick of 10 paise, and the exchange's table gives 5" in tick_doubt(listed.rows["INFY"], DAY, 90_000)
    with pytest.raises(InstrumentsError, match="expected a bar before July 2026"):
        reference_close_paise(bars.between(dt.date(2026, 7, 1), DAY), DAY)
