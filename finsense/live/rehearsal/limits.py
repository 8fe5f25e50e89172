"""The vendor's limits on requests, as its server counts them: in real time, as clients wait in real time."""

from collections import deque
from collections.abc import Callable, Mapping

from finsense.live.brokers.rate_limits import KITE_LIMITS, Limit


class ServerLimits:
    """Counts the requests of the one account.

    Args:
        limits: endpoint class -> its limits; a class that is absent has none.
        now_s: a monotonic clock, seconds.
    """

    def __init__(self, limits: Mapping[str, tuple[Limit, ...]] = KITE_LIMITS, *, now_s: Callable[[], float]) -> None:
        self._limits, self._now_s = limits, now_s
        longest = {kind: max((one.requests for one in some), default=1) for kind, some in limits.items()}
        self._times_s = {kind: deque[float](maxlen=most) for kind, most in longest.items()}

    def admit(self, endpoint: str) -> bool:
        """Take a request, or say that it is one too many; what is refused does not count."""
        limits, now_s = self._limits.get(endpoint, ()), self._now_s()
        if not limits:
            return True
        times = self._times_s[endpoint]
        for limit in limits:
            if len(times) >= limit.requests and now_s - times[-limit.requests] < limit.span_s:
                return False
        times.append(now_s)
        return True


def endpoint_of(method: str, path: str) -> str:
    """The class of limits that a request belongs to."""
    if path.startswith("/orders/") and method != "GET":
        return "order"
    if path.startswith("/instruments/historical/"):
        return "historical"
    return "quote" if path == "/quote" or path.startswith("/quote/") else "other"
