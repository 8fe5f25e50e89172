"""Puts every exception that the Kite client can raise into one of our six kinds; what is not known fails closed.

Measured on kiteconnect 5.2.2: only a part of what it raises is a `KiteException`. A gateway's HTML page becomes
`DataException` with the code 502 whatever its own code was, broken JSON bodies become TypeError, KeyError or
AttributeError, and a lost connection is the exception of `requests`. Error types that the vendor documents but the
client does not know (MarginException, HoldingException, UserException) come as `GeneralException`.
"""

from kiteconnect import exceptions as kite
from requests import exceptions as http

from finsense.live.brokers.errors import (
    AuthExpired,
    BrokerError,
    ProtocolError,
    RateLimited,
    Rejected,
    TransientRead,
    UnknownFate,
)

_TOO_MANY = 429
_TOO_MANY_WORDS = "too many requests"
# A 26th change of an order; the vendor calls it a NetworkException, but no repetition helps.
_SPENT_WORDS = "maximum allowed order modifications"
_CLIENT_FAULT = range(400, 500)
_SERVER_FAULT = 500


def classify(error: BaseException, *, writes: bool) -> BrokerError:
    """The kind of an exception.

    Args:
        error: what the client raised.
        writes: whether the request would have changed something (an order placed, modified or cancelled).

    Returns:
        The kind, with the exception's class and words. An unknown exception is UnknownFate for a request that writes,
        ProtocolError for one that reads.
    """
    if isinstance(error, BrokerError):
        return error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, kite.KiteException):
        return _of_the_client(error, text, writes)
    if isinstance(error, http.RequestException):
        return _lost(text, writes)
    return UnknownFate(text) if writes else ProtocolError(text)


def _of_the_client(error: kite.KiteException, text: str, writes: bool) -> BrokerError:
    code = error.code if isinstance(error.code, int) else 0
    if isinstance(error, kite.TokenException):
        return AuthExpired(text)
    if isinstance(error, kite.DataException):
        # A page of the gateway, or JSON that is cut: whatever it says, the request may have passed it.
        return _lost(text, writes)
    words = str(error).lower()
    if code == _TOO_MANY or _TOO_MANY_WORDS in words:
        return RateLimited(text)
    if _SPENT_WORDS in words:
        return Rejected(str(error))
    if isinstance(error, kite.InputException | kite.PermissionException) and code < _SERVER_FAULT:
        return Rejected(str(error))
    if isinstance(error, kite.OrderException | kite.GeneralException) and code in _CLIENT_FAULT:
        return Rejected(str(error))
    # What is left: NetworkException 5xx (the order system is down), and whatever a server says that failed.
    return _lost(text, writes)


def _lost(text: str, writes: bool) -> BrokerError:
    return UnknownFate(text) if writes else TransientRead(text)
