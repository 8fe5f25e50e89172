"""What can go wrong between us and a broker: six kinds, each with the one thing that the caller must do."""


class BrokerError(RuntimeError):
    """Something went wrong at the broker; it is always one of the six kinds below."""


class AuthExpired(BrokerError):
    """The access token is dead: send nothing, wait for a new login. It says nothing about orders or positions."""


class RateLimited(BrokerError):
    """Refused for asking too often; nothing was done. The same request may be sent again, later."""


class Rejected(BrokerError):
    """Refused for good; nothing was done, and the same request would be refused again.

    Attributes:
        reason: the broker's words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownFate(BrokerError):
    """A request that changes something may have been carried out. Never send it again: read the order book by tag."""


class TransientRead(BrokerError):
    """A reading failed; nothing was changed. It may be repeated. It is not an empty answer: no answer is not `flat`."""


class ProtocolError(BrokerError):
    """An answer that cannot be what it claims to be; stop and say so."""


class HaltTrading(RuntimeError):
    """Trading must stop now and say why: what goes on is doubtful, or somebody pulled the kill switch.

    Attributes:
        reason: why.
        flatten: whether the positions are to be closed as well.
    """

    def __init__(self, reason: str, *, flatten: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.flatten = flatten


class BooksDiffer(RuntimeError):
    """The broker and the session disagree about cash, positions or orders; trading stops."""
