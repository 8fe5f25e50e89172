"""The record of a session, bar by bar, and its hashes: what parity compares."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT
from finsense.account.session import Observation

HASHED = ("states", "masks", "actions", "fills", "equity")


@dataclass(frozen=True)
class Trace:
    """A session of n bars; row i is bar i, with the fill at its open, the mark and the decision at its close.

    Attributes:
        time_ns: (n,) int64, start of each bar, ns UTC.
        close_paise: (n,) int64.
        states: (n, F) float32.
        masks: (n, A) bool.
        actions: (n,) int64.
        orders: (n,) int64, signed shares ordered.
        fills: (n, 3) int64, of the order at the bar's open: signed shares, price in paise, charges in paise; zeros
            where nothing filled.
        stop_fills: (n, 3) int64, the same of the protective stop, which fills inside the bar and after the order.
        equity_paise: (n,) int64.
        position: (n,) int64, shares.
    """

    time_ns: NDArray[np.int64]
    close_paise: NDArray[np.int64]
    states: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    orders: NDArray[np.int64]
    fills: NDArray[np.int64]
    stop_fills: NDArray[np.int64]
    equity_paise: NDArray[np.int64]
    position: NDArray[np.int64]

    def all_fills(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What filled, in order: the bar of each fill, (m,) int64, and its shares, price and charges, (m, 3) int64."""
        both = np.stack([self.fills, self.stop_fills], axis=1)
        bars, places = np.nonzero(both[:, :, 0])
        return bars, both[bars, places]

    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of each of HASHED, little-endian."""
        return dict(zip(HASHED, map(_sha256, self._hashed(decisions=len(self.actions))), strict=True))

    def digest(self) -> str:
        """One SHA-256 (hex) over states, masks, actions, fills with their charges, and equity.

        The last bar's mask and action are left out: an environment ends there and takes no decision.
        """
        digest = hashlib.sha256()
        for array in self._hashed(decisions=len(self.actions) - 1):
            digest.update(_sha256(array).encode())
        return digest.hexdigest()

    def _hashed(self, decisions: int) -> list[NDArray[Any]]:
        """The arrays of HASHED, with the masks and actions of the first so many bars.

        Fills of the stop count as fills; where it never filled they add nothing, so that such a trace keeps its hash.
        """
        fills = np.concatenate([self.fills, self.stop_fills], axis=1) if self.stop_fills.any() else self.fills
        return [self.states, self.masks[:decisions], self.actions[:decisions], fills, self.equity_paise]


def _columns(books: NDArray[Any], *names: str) -> NDArray[np.int64]:
    columns: NDArray[np.int64] = np.stack([books[name] for name in names], axis=1)
    return columns


def _sha256(array: NDArray[Any]) -> str:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()


class Recorder:
    """Collects a trace while a session runs."""

    def __init__(self) -> None:
        self._seen: list[Observation] = []
        self._decisions: list[tuple[int, int, int]] = []
        self._books: list[bytes] = []

    def append(self, time_ns: int, seen: Observation, action: int, order: int, account: NDArray[Any]) -> None:
        """Note one bar.

        Args:
            time_ns: start of the bar.
            seen: what the policy saw at its close.
            action: what it chose.
            order: signed shares ordered, 0 for none.
            account: (1,) of dtype ACCOUNT, marked at the bar's close.
        """
        self._seen.append(seen)
        self._decisions.append((time_ns, action, order))
        self._books.append(account.tobytes())

    def __len__(self) -> int:
        return len(self._seen)

    def trace(self) -> Trace:
        """The record so far.

        Raises:
            ValueError: nothing was recorded.
        """
        if not self._seen:
            raise ValueError("no bar was traded, so there is nothing to trace")
        decisions = np.array(self._decisions, np.int64)
        books = np.frombuffer(b"".join(self._books), ACCOUNT)
        return Trace(
            time_ns=decisions[:, 0],
            close_paise=books["close_paise"].copy(),
            states=np.concatenate([seen.state for seen in self._seen]),
            masks=np.concatenate([seen.mask for seen in self._seen]),
            actions=decisions[:, 1],
            orders=decisions[:, 2],
            fills=_columns(books, "fill_quantity", "fill_price_paise", "fill_charges_paise"),
            stop_fills=_columns(books, "stop_fill_quantity", "stop_fill_price_paise", "stop_fill_charges_paise"),
            equity_paise=books["equity_paise"].copy(),
            position=books["position"].copy(),
        )
