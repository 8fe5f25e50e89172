"""M accounts with several symbols each over a tape of moments: the arrays that the compiled step works on."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from finsense.account.claims import CLAIM
from finsense.account.crowding import new_pasts, sector_codes
from finsense.account.portfolio import ACCOUNT, ACCOUNT_FEATURES
from finsense.account.rules import AccountRules
from finsense.account.session import IllegalAction
from finsense.account.track_record import TRACK
from finsense.envs.core import EpisodeRules, Outcome, draw_seed
from finsense.envs.joint_kernel import refresh_joint, reset_joint, step_joint
from finsense.envs.kernel import ENV
from finsense.envs.rewards import REWARD_INPUTS, REWARD_MEMORY, REWARDS
from finsense.envs.tape import Tape, build_tape
from finsense.market.bars import Bars, BarsError
from finsense.market.costs import ChargeRules, scaled_schedules
from finsense.market.instruments import Instrument
from finsense.state.spec import StateSpec


@dataclass(frozen=True)
class JointTape:
    """The markets of several symbols, in alphabetic order, and the moments in which one account trades them.

    Attributes:
        tape: the markets.
        times: (T,) int64, start of each moment, ns UTC.
        bars: (T, S) int64, the last bar of each symbol on the tape at each moment; -1 before its first tradable one.
        present: (T, S) bool, whether that bar is of the moment.
    """

    tape: Tape
    times: NDArray[np.int64]
    bars: NDArray[np.int64]
    present: NDArray[np.bool_]

    def __deepcopy__(self, memo: dict[int, Any]) -> "JointTape":
        """Itself, as a Tape is."""
        return self


def build_joint_tape(
    markets: Sequence[tuple[Bars, Instrument]],
    spec: StateSpec,
    charges: ChargeRules,
    first: dt.date | None = None,
    last: dt.date | None = None,
) -> JointTape:
    """Prepare the symbols of one account, given in any order; dates and errors as in `build_tape`.

    Each symbol begins at its own first bar that may be traded.

    Raises:
        BarsError: a symbol is there twice.
    """
    ordered = sorted(markets, key=lambda market: market[0].symbol)
    symbols = [bars.symbol for bars, _ in ordered]
    if len(set(symbols)) != len(symbols):
        raise BarsError(f"expected each symbol of an account once, found {', '.join(symbols)}")
    tape = build_tape(ordered, spec, charges, first, last)
    spans = [tape.times[begin : end + 1] for begin, end in tape.spans.tolist()]
    times = np.unique(np.concatenate(spans))
    bars = np.empty((len(times), len(spans)), np.int64)
    for place, (own, begin) in enumerate(zip(spans, tape.spans[:, 0].tolist(), strict=True)):
        found = np.searchsorted(own, times, side="right") - 1
        bars[:, place] = np.where(found >= 0, found + begin, -1)
    present = (bars >= 0) & (tape.times[np.maximum(bars, 0)] == times[:, None])
    return JointTape(tape, times, bars, present)


class JointCore:
    """The state of M accounts with S symbols each, as M x S rows: row m x S + s is symbol s of account m.

    It answers as `TradingCore` does, row by row. All rows of an account end together. The reward of a row is that of
    what its symbol added to the account: its reward sees the account's equity before the step, and that same equity
    with this symbol's gain alone after it. So the logs of the rows sum to the account's, up to their products, and with
    one symbol the reward is that of a TradingCore.

    Attributes:
        tape: the moments that all accounts share, read only.
        symbols: the S names, in alphabetic order.
        envs: (M,) of dtype ENV; `bar` is the moment.
        accounts: (M, S) of dtype ACCOUNT.
        claims: (M, S + 1) of dtype CLAIM.
        closes: (M, S, n) int64, what the limit of correlation remembers.
        tracks: (M, S) of dtype TRACK.
        masks: (M x S, A) bool, the legal actions now; a symbol without a bar in this moment may only hold.
        confidences: (M x S,) float64: the policy's in its next choices, which the rules' ranking makes the order of who
            is served when cash or places are short of; write them before a step. All equal unless written.
        final_accounts: (M x S,) of dtype ACCOUNT, the books of the last episode that ended in each row.
    """

    def __init__(
        self, tape: JointTape, rules: AccountRules, episode: EpisodeRules, accounts: int, autoreset: bool
    ) -> None:
        if accounts < 1:
            raise ValueError(f"expected at least one account, found {accounts}")
        moments, symbols = tape.bars.shape
        if episode.bars is not None and episode.bars > moments - 1:
            raise ValueError(
                f"an episode of {episode.bars} bars does not fit the span, which has {moments - 1} steps to trade; "
                "shorten episode.bars or give a longer span"
            )
        market, record = tape.tape, rules.record(tape.tape.interval)
        self.tape = tape
        self.rules = rules
        self.episode = episode
        self.symbols = market.symbols
        self.count = accounts * symbols
        self.state_width = market.spec.width + len(ACCOUNT_FEATURES)
        self.action_count = int(record["actions"][0])
        self.envs = np.zeros(accounts, ENV)
        self.accounts = np.zeros((accounts, symbols), ACCOUNT)
        self.claims = np.zeros((accounts, symbols + 1), CLAIM)
        self.closes = new_pasts(accounts, symbols, rules.limits)
        self._near = sector_codes(market.symbols, rules.limits), self.closes
        self.tracks = np.zeros((accounts, symbols), TRACK)
        self.masks = np.zeros((self.count, self.action_count), np.bool_)
        self.confidences = np.zeros(self.count)
        self._autoreset = autoreset
        self._memory = np.zeros((self.count, REWARD_MEMORY))
        self._rewards = np.zeros(self.count, np.float32)
        self._terminated, self._truncated = np.zeros(self.count, np.bool_), np.zeros(self.count, np.bool_)
        self._finals = np.zeros((self.count, self.state_width), np.float32)
        self._final_masks = np.zeros((self.count, self.action_count), np.bool_)
        self._summaries = np.zeros((accounts, symbols), ACCOUNT)
        self.final_accounts = self._summaries.reshape(-1)
        self._schedules = market.schedules.copy()
        self._charged = 1.0
        cells, columns = market.states.reshape(-1), market.states.shape[1]
        width = market.spec.width
        self._world = (record, market.markets, self._schedules, cells, width, columns, tape.bars, tape.present)
        slippage = (rules.slippage_bps, rules.slippage_bps) if episode.slippage_bps is None else episode.slippage_bps
        lowest_ppm, highest_ppm = (round(bps * 100) for bps in slippage)
        whole = np.array([[0, moments - 1]], np.int64)
        self._window = (whole, episode.bars or 0, episode.random_start, (lowest_ppm, highest_ppm))
        reward = REWARDS[episode.reward]
        parameters = [episode.reward_parameters.get(name, default) for name, default in reward.defaults.items()]
        inputs = np.zeros(REWARD_INPUTS + 1)
        self._reward = (reward.address, np.array([*parameters, 0.0]), float(episode.reward_scale), inputs)
        self._scratch = (*(np.zeros(symbols, np.int64) for _ in range(3)), np.zeros(symbols))

    def spaces(self) -> "tuple[spaces.Box[np.float32], spaces.Discrete]":
        """Observation and action space of one row; a state is always finite, and so is its box."""
        limit = float(np.finfo(np.float32).max)
        return spaces.Box(-limit, limit, (self.state_width,), np.float32), spaces.Discrete(self.action_count)

    @property
    def deciding(self) -> NDArray[np.bool_]:
        """(M x S,) bool, which rows have a bar in this moment; the others can only hold and earn 0."""
        rows: NDArray[np.bool_] = self.tape.present[self.envs["bar"]].reshape(-1)
        return rows

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Every array in which the accounts keep their state, not copied."""
        books = {
            "envs": self.envs,
            "accounts": self.accounts,
            "claims": self.claims,
            "closes": self.closes,
            "tracks": self.tracks,
        }
        return {**books, "masks": self.masks, "confidences": self.confidences, "reward_memory": self._memory}

    def seed(self, seed: int) -> None:
        """Seed account m with seed + m."""
        self.envs["random"] = [draw_seed(seeding.np_random(seed + index)[0]) for index in range(len(self.envs))]

    def charge(self, fraction: float) -> None:
        """From now on take this fraction of the tape's charges; the masks follow at once.

        Args:
            fraction: 0 is a market without charges, 1 the tape's own.
        """
        if fraction != self._charged:
            self._charged = fraction
            self._schedules[...] = scaled_schedules(self.tape.tape.schedules, fraction)
            states = np.empty((self.count, self.state_width), np.float32)
            refresh_joint(self._world, self.envs, self.accounts, states, self.masks)

    def reset(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Start new episodes in the chosen accounts, (M,) bool (all by default).

        Returns:
            (M x S, F) float32, valid in their rows.
        """
        states = np.zeros((self.count, self.state_width), np.float32)
        picked = np.ones(len(self.envs), np.bool_) if chosen is None else chosen
        books = self.envs, self.accounts, self.claims, self._near, self.tracks, self._memory
        reset_joint(picked, self._world, self._window, *books, states, self.masks)
        return states

    def step(self, actions: NDArray[np.int64]) -> Outcome:
        """Step every account.

        Args:
            actions: (M x S,) int64.

        Raises:
            IllegalAction: an action that its mask forbids; no account was stepped.
            ValueError: not one action per row, or a confidence that is not finite.
        """
        if actions.shape != (self.count,):
            raise ValueError(f"expected one action for each of {self.count} rows, found shape {actions.shape}")
        if not np.isfinite(self.confidences).all():
            raise ValueError("expected finite confidences, found some that are not")
        states = np.empty((self.count, self.state_width), np.float32)
        fault = step_joint(
            actions,
            self.confidences,
            self._world,
            self._window,
            self._reward,
            self.envs,
            self.accounts,
            self.claims,
            self._near,
            self.tracks,
            self._memory,
            self.masks,
            self._autoreset,
            self._scratch,
            states,
            self._rewards,
            self._terminated,
            self._truncated,
            self._finals,
            self._final_masks,
            self._summaries,
        )
        if fault >= 0:
            legal = np.flatnonzero(self.masks[fault]).tolist()
            raise IllegalAction(f"row {fault}: action {actions[fault]} is not legal here; legal actions: {legal}")
        ended = self._finals, self._final_masks, self.final_accounts
        return Outcome(states, self._rewards, self._terminated, self._truncated, *ended)
