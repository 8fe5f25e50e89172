"""A real HTTP server on loopback that answers as Yahoo's chart does, from simulated bars; a session that finds it."""

import datetime as dt
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import requests
from requests.adapters import HTTPAdapter

from finsense.market.bars import Bars
from finsense.market.calendar import DAY_NS, IST, nse_calendar, session_date
from finsense.market.sources.yahoo import bar_ends

SECOND_NS = 1_000_000_000
_DAYS_OF_RANGE = {"1d": 1, "5d": 5, "1mo": 30, "60d": 60}


class StepClock:
    """Time that passes only while somebody waits; nights pass at once.

    While a request is under way nobody waits, so a slow machine changes nothing that the tests see.
    """

    def __init__(self, start: dt.datetime, *, nights: bool = False) -> None:
        self._now_ns = int(start.timestamp()) * SECOND_NS
        self._nights = nights

    def now_ns(self) -> int:
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        self._now_ns += round(seconds * SECOND_NS)
        if not self._nights and (morning_ns := self._next_opening()) is not None:
            self._now_ns = morning_ns - 60 * SECOND_NS

    def _next_opening(self) -> int | None:
        """The next session's opening where the last one is over for an hour; None in between."""
        day = session_date(self._now_ns)
        session = nse_calendar().session(day, derivatives=False)
        if session is not None and self._now_ns < session.close_ns + 3600 * SECOND_NS:
            return None
        while (session := nse_calendar().session(day := day + dt.timedelta(days=1), derivatives=False)) is None:
            pass
        return session.open_ns


def ist(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> dt.datetime:
    return dt.datetime(year, month, day, hour, minute, tzinfo=IST)


@dataclass
class YahooServer:
    """What the server knows, and how it is to fail.

    Attributes:
        markets: symbol -> interval -> bars.
        clock: whose `now_ns` says what has happened already.
        splits: symbol -> day -> (numerator, denominator).
        dividends: symbol -> day -> rupees.
        lag_s: how old a bar's end must be before it is shown.
        asked: each chart request: symbol and parameters.
        mark: edits an answer's chart before it goes; None leaves it.
    """

    markets: Mapping[str, Mapping[str, Bars]]
    clock: StepClock
    splits: Mapping[str, Mapping[dt.date, tuple[int, int]]] = field(default_factory=dict)
    dividends: Mapping[str, Mapping[dt.date, float]] = field(default_factory=dict)
    lag_s: float = 0.0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    mark: Any = None
    port: int = 0
    _faults: deque[str] = field(default_factory=deque)

    def fail(self, *faults: str) -> None:
        """The next chart requests fail so, one each; the client makes two of an answer of 400 and above."""
        self._faults.extend(faults)

    def chart(self, symbol: str, asked: Mapping[str, str]) -> tuple[int, str]:
        """Status and body of one request."""
        self.asked.append((symbol, dict(asked)))
        fault = self._faults.popleft() if self._faults else ""
        if fault in _BODIES:
            return _BODIES[fault]
        market = self.markets.get(symbol.removesuffix(".NS"))
        if market is None:
            return _BODIES["404"]
        result = self._result(symbol, market[asked["interval"]], asked)
        if fault == "empty day":
            result.pop("timestamp")
            result["indicators"] = {"quote": [{}]}
        if fault == "no tradingPeriods":
            del result["meta"]["tradingPeriods"]
        if self.mark is not None:
            self.mark(result)
        return 200, json.dumps({"chart": {"result": [result], "error": None}})

    def _result(self, symbol: str, bars: Bars, asked: Mapping[str, str]) -> dict[str, Any]:
        now_ns = self.clock.now_ns()
        rows = list(self._rows(bars, now_ns))
        # Before the first trade of a day, its range is still that of the session before.
        begin_ns, end_ns = self._span(asked, rows[-1][0] * SECOND_NS if rows else now_ns)
        rows = [row for row in rows if begin_ns <= row[0] * SECOND_NS < end_ns]
        columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(6)]
        quote = dict(zip(("open", "high", "low", "close", "volume"), columns[1:], strict=True))
        indicators: dict[str, Any] = {"quote": [quote]}
        if bars.interval == "1d":
            # Yahoo scales these by dividends; they must not be read.
            indicators["adjclose"] = [{"adjclose": [price * 0.9 for price in columns[4]]}]
        bare = symbol.removesuffix(".NS")
        events = {
            "splits": {
                str(_seconds(day)): {"date": _seconds(day), "numerator": one[0], "denominator": one[1]}
                for day, one in self.splits.get(bare, {}).items()
                if begin_ns <= _seconds(day) * SECOND_NS < min(end_ns, now_ns)
            },
            "dividends": {
                str(_seconds(day)): {"date": _seconds(day), "amount": amount}
                for day, amount in self.dividends.get(bare, {}).items()
                if begin_ns <= _seconds(day) * SECOND_NS < min(end_ns, now_ns)
            },
        }
        return {
            "meta": _meta(symbol, bars.interval, now_ns),
            "timestamp": columns[0],
            "indicators": indicators,
            "events": {name: told for name, told in events.items() if told},
        }

    def _span(self, asked: Mapping[str, str], now_ns: int) -> tuple[int, int]:
        if "period1" in asked:
            return int(asked["period1"]) * SECOND_NS, int(asked["period2"]) * SECOND_NS
        day = session_date(now_ns)
        midnight_ns = int(dt.datetime(day.year, day.month, day.day, tzinfo=IST).timestamp()) * SECOND_NS
        return midnight_ns - (_DAYS_OF_RANGE[asked["range"]] - 1) * DAY_NS, now_ns + DAY_NS

    def _rows(self, bars: Bars, now_ns: int) -> Iterator[tuple[Any, ...]]:
        """The whole bars, the one still open, and the live quote with a time of its own."""
        shown_ns = now_ns - round(self.lag_s * SECOND_NS)
        last = None
        for bar in bars:
            if bar.time_ns >= shown_ns:
                break
            session = nse_calendar().session(session_date(bar.time_ns), derivatives=bars.derivatives)
            assert session is not None
            whole = bar_ends(session, bars.interval)[bar.time_ns] <= shown_ns
            at_s = _seconds(session.date) if bars.interval == "1d" else bar.time_ns // SECOND_NS
            # What is still open shows other prices than it will have; only the clock can tell.
            prices = (bar.open, bar.high, bar.low, bar.close) if whole else (bar.open,) * 4
            last = bar.open if not whole else bar.close
            # Yahoo keeps prices as 32-bit floats.
            yield at_s, *(float(np.float32(price)) for price in prices), bar.volume if whole else bar.volume // 2 + 1
        if last is not None and bars.interval != "1d":
            yield shown_ns // SECOND_NS // 300 * 300 + 301, *(float(np.float32(last)),) * 4, 0


def _seconds(day: dt.date) -> int:
    return int(dt.datetime(day.year, day.month, day.day, 9, 15, tzinfo=IST).timestamp())


def _meta(symbol: str, interval: str, now_ns: int) -> dict[str, Any]:
    now_s = now_ns // SECOND_NS
    period = {"timezone": "IST", "start": now_s, "end": now_s + 22_500, "gmtoffset": 19_800}
    return {
        "currency": "INR",
        "symbol": symbol,
        "instrumentType": "EQUITY",
        "exchangeTimezoneName": "Asia/Kolkata",
        "timezone": "IST",
        "gmtoffset": 19_800,
        "firstTradeDate": 820_467_900,
        "regularMarketTime": now_s,
        "validRanges": ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"],
        "dataGranularity": interval,
        "priceHint": 2,
        "currentTradingPeriod": {name: dict(period) for name in ("pre", "regular", "post")},
        "tradingPeriods": {name: [[dict(period)]] for name in ("pre", "regular", "post")},
    }


def _refused(status: int, code: str, words: str) -> tuple[int, str]:
    return status, json.dumps({"chart": {"result": None, "error": {"code": code, "description": words}}})


_BODIES = {
    "404": _refused(404, "Not Found", "No data found, symbol may be delisted"),
    "422": _refused(
        422,
        "Unprocessable Entity",
        "5m data not available for startTime=1 and endTime=2. The requested range must be within the last 60 days.",
    ),
    "429": (429, "Too Many Requests"),
    "500": (500, "<html>Internal Server Error</html>"),
    "back soon": (200, "<html><h1>Will be right back...</h1></html>"),
    "page": (200, "<html>consent</html>"),
    "nothing": (200, json.dumps({"chart": {"result": [], "error": None}})),
    "hang": (0, ""),
    "drop": (-1, ""),
}


@contextmanager
def yahoo_server(server: YahooServer, hang_s: float = 1.0) -> Iterator[YahooServer]:
    """Run it; `server.port` is where."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # One write an answer, or the client waits for the second one.
        wbufsize = 1 << 16

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, body = 200, "ok"
            if "getcrumb" in parts.path:
                body = "CRUMB"
            elif "/v8/finance/chart/" in parts.path:
                asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
                status, body = server.chart(parts.path.rsplit("/", 1)[1], asked)
            if status == -1:
                self.close_connection = True
                return
            if status == 0:
                time.sleep(hang_s)
                self.close_connection = True
                return
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


class _Loopback(HTTPAdapter):
    """Sends what is meant for any host to the server on loopback, the host in front of the path."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        assert request.url is not None
        parts = urlsplit(request.url)
        request.url = f"http://127.0.0.1:{self._port}/{parts.netloc}{parts.path}?{parts.query}"
        return super().send(request, *args, **kwargs)


@contextmanager
def loopback_session(port: int) -> Iterator[requests.Session]:
    """A session that reaches the server instead of Yahoo, and nothing else."""
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", _Loopback(port))
        yield session
