"""Asks Yahoo for a symbol's chart through `yfinance`, with every failure as one of our kinds and nothing hidden."""

import datetime as dt
import json
import warnings
from typing import Protocol

import pandas as pd
import requests
import yfinance
from curl_cffi import requests as curl
from yfinance.data import YfData
from yfinance.exceptions import YFDataException, YFPricesMissingError, YFRateLimitError

from finsense.live.brokers.errors import BrokerError, ProtocolError, RateLimited, Rejected, TransientRead
from finsense.market.bars import ist_text
from finsense.market.calendar import IST
from finsense.market.sources.yahoo import SUFFIX

# Yahoo's own words of the ages that it keeps: 5-minute bars of 60 days, daily ones for ever (HTTP 422 beyond).
OLDEST_DAYS: dict[str, int | None] = {"5m": 59, "1d": None}
# How far back each range of the chart reaches, calendar days; "1d" is the session in progress.
_RANGES = {0: "1d", 4: "5d", 27: "1mo"}

_NO_SUCH_RANGE = "not available for"
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, json.JSONDecodeError)


class Chart(Protocol):
    """Answers with the rows of a symbol's chart."""

    def since(self, symbol: str, interval: str, day: dt.date, now_ns: int) -> pd.DataFrame:
        """The rows from an IST date to the instant `now_ns`, and perhaps some before; it may have none.

        Raises:
            BrokerError: RateLimited, Rejected, TransientRead or ProtocolError.
        """
        ...


class YahooChart:
    """Yahoo's chart through the real client.

    `yf.download` is never used: it swallows even a refusal for asking too often. Prices come as Yahoo has them
    (`auto_adjust=False`), errors are raised (`hide_exceptions=False`), empty rows are kept so that they can be counted.
    The client has one session for the whole process; the last one wins.

    Args:
        session: of `requests` or `curl_cffi`; None opens one of our own that looks like a browser's, as Yahoo wants it.
        timeout_s: after which an answer counts as lost.
    """

    def __init__(
        self, session: "requests.Session | curl.Session[curl.Response] | None" = None, *, timeout_s: float = 10.0
    ) -> None:
        yfinance.config.debug.hide_exceptions = False
        # The client itself calls what pandas 4 will drop; that is none of the user's business.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"yfinance\.")
        self._session = session or curl.Session(impersonate="chrome")
        self._timeout_s = timeout_s
        self._tickers: dict[str, yfinance.Ticker] = {}

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def since(self, symbol: str, interval: str, day: dt.date, now_ns: int) -> pd.DataFrame:
        """See `Chart`."""
        # The client keeps answers of the past in its memory, a server's failures among them.
        YfData.cache_get.cache_clear()
        today = dt.datetime.fromtimestamp(now_ns // 1_000_000_000, IST).date()
        age = (today - day).days
        asked = next((name for reach, name in _RANGES.items() if age <= reach and (interval != "1d" or reach)), None)
        span = (
            {"period": asked}
            if asked
            else {"start": day.isoformat(), "end": (today + dt.timedelta(days=1)).isoformat()}
        )
        try:
            # With pre- and post-market asked for, the client does not throw away what lies outside Yahoo's idea of the
            # session, which is wrong on a Muhurat day and makes it stumble over an answer that lacks it.
            frame: pd.DataFrame = self._ticker(symbol).history(
                interval=interval,
                auto_adjust=False,
                keepna=True,
                prepost=True,
                actions=True,
                timeout=self._timeout_s,
                **span,
            )
        except Exception as error:
            raise classify(error, f"{symbol}{SUFFIX} {interval} at {ist_text(now_ns)}") from error
        return frame

    def _ticker(self, symbol: str) -> yfinance.Ticker:
        if symbol not in self._tickers:
            ticker = yfinance.Ticker(f"{symbol}{SUFFIX}", session=self._session)
            # What the client would ask the server for first, in a request of its own whose failure it keeps.
            ticker._tz = "Asia/Kolkata"
            self._tickers[symbol] = ticker
        return self._tickers[symbol]


def classify(error: Exception, asked: str) -> BrokerError:
    """The kind of an exception of the client; one that is not known is a ProtocolError, which stops."""
    text = f"{asked}: {type(error).__name__}: {error}"
    if isinstance(error, BrokerError):
        return error
    if isinstance(error, YFRateLimitError):
        return RateLimited(text)
    if isinstance(error, YFPricesMissingError):
        return Rejected(text) if _NO_SUCH_RANGE in str(error) else TransientRead(text)
    # The exceptions of both HTTP stacks are OSErrors.
    if isinstance(error, YFDataException | OSError):
        return TransientRead(text)
    # A page instead of JSON, or JSON without the fields that the client reads.
    return TransientRead(text) if isinstance(error, _BROKEN) else ProtocolError(text)
