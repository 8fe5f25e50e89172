"""Single small requests to services beside the broker: no proxy, no redirect, a limit on time and on what is read."""

import urllib.request
from email.message import Message
from typing import Any, NamedTuple

_MOST_BYTES = 4096


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: what is sent may be a secret, and its address was not the one that the user gave."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


# A proxy of the environment would see secrets, and show another address than the one that orders leave from.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


class Answer(NamedTuple):
    """What came back.

    Attributes:
        body: the first 4096 bytes.
        headers: of the answer.
    """

    body: bytes
    headers: Message


def ask(
    address: str, timeout_s: float, *, method: str = "GET", content: bytes | None = None, kind: str = "text/plain"
) -> Answer:
    """One request.

    Args:
        address: http or https.
        timeout_s: of each wait for the network.
        method: GET, POST or HEAD.
        content: of a POST.
        kind: content type of it.

    Raises:
        OSError: no answer, or one that says that it did not go well (urllib.error.HTTPError, which has its headers).
        ValueError: the address is none.
    """
    headers = {"User-Agent": "finsense", **({"Content-Type": kind} if content is not None else {})}
    request = urllib.request.Request(address, content, headers, method=method)
    with _opener.open(request, timeout=timeout_s) as answer:
        return Answer(answer.read(_MOST_BYTES), answer.headers)
