"""N accounts over a tape: the arrays that the compiled step works on. Every environment is a face of this."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT, ACCOUNT_FEATURES
from finsense.account.rules import AccountRules
from finsense.account.session import IllegalAction
from finsense.envs.kernel import ENV, refresh_masks, reset_envs, step_envs
from finsense.envs.rewards import REWARD_INPUTS, REWARD_MEMORY, REWARDS
from finsense.envs.tape import Tape
from finsense.market.costs import scaled_schedules


@dataclass(frozen=True)
class EpisodeRules:
    """How an environment plays.

    Attributes:
        reward: a name in REWARDS.
        reward_scale: every reward is multiplied by this.
        reward_parameters: parameters of the reward that differ from its defaults.
        bars: steps of an episode; None plays the whole span.
        random_start: whether an episode starts at a random symbol and bar, or env i on symbol i from its first bar.
        slippage_bps: lowest and highest slippage, of which each episode draws its own, in steps of a hundredth of a
            basis point; None for that of the account's rules.
    """

    reward: str = "log_equity"
    reward_scale: float = 1.0
    reward_parameters: Mapping[str, float] = field(default_factory=dict)
    bars: int | None = None
    random_start: bool = True
    slippage_bps: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise ValueError(f"unknown reward `{self.reward}`; known: {', '.join(REWARDS)}")
        unknown = sorted(set(self.reward_parameters) - set(REWARDS[self.reward].defaults))
        if unknown:
            raise ValueError(f"unknown parameter of reward `{self.reward}`: {', '.join(unknown)}")
        if self.bars is not None and self.bars < 1:
            raise ValueError(f"an episode needs at least 1 bar, found {self.bars}")
        if self.slippage_bps is not None and not 0 <= self.slippage_bps[0] <= self.slippage_bps[1] <= 1000:
            raise ValueError(f"slippage_bps must rise within 0 to 1000, found {self.slippage_bps}")


class Outcome(NamedTuple):
    """What one step gave. `states` is the caller's own; the other arrays are reused by the next step.

    Attributes:
        states: (N, F) float32.
        rewards: (N,) float32.
        terminated: (N,) bool, ruined.
        truncated: (N,) bool, at the end of the window.
        finals: (N, F) float32, valid in the rows that ended: the last state of the episode.
        final_masks: (N, A) bool, valid in the rows that ended: the legal actions in that state.
        accounts: (N,) of dtype ACCOUNT, valid in the rows that ended: the account as the episode left it.
    """

    states: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    finals: NDArray[np.float32]
    final_masks: NDArray[np.bool_]
    accounts: NDArray[Any]


class TradingCore:
    """The state of N environments; memory grows with N x F, never with the length of the data.

    Attributes:
        tape: the market that all environments share, read only.
        envs: (N,) of dtype ENV.
        accounts: (N,) of dtype ACCOUNT.
        masks: (N, A) bool, the legal actions now.
        final_accounts: (N,) of dtype ACCOUNT, the books of the last episode that ended in each env.
    """

    def __init__(self, tape: Tape, rules: AccountRules, episode: EpisodeRules, count: int, autoreset: bool) -> None:
        if count < 1:
            raise ValueError(f"expected at least one environment, found {count}")
        _check_length(tape, episode)
        reward = REWARDS[episode.reward]
        parameters = [episode.reward_parameters.get(name, default) for name, default in reward.defaults.items()]
        record = rules.record(tape.interval)
        self.tape = tape
        self.rules = rules
        self.episode = episode
        self.count = count
        self.state_width = tape.spec.width + len(ACCOUNT_FEATURES)
        self.action_count = int(record["actions"][0])
        self.envs = np.zeros(count, ENV)
        self.accounts = np.zeros(count, ACCOUNT)
        self.masks = np.zeros((count, self.action_count), np.bool_)
        self._autoreset = autoreset
        self._memory = np.zeros((count, REWARD_MEMORY))
        self._rewards = np.zeros(count, np.float32)
        self._terminated, self._truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        self._finals = np.zeros((count, self.state_width), np.float32)
        self._final_masks = np.zeros((count, self.action_count), np.bool_)
        self.final_accounts = np.zeros(count, ACCOUNT)
        cells = tape.states.reshape(-1)
        self._schedules = tape.schedules.copy()
        self._charged = 1.0
        self._world = (record, tape.markets, self._schedules, cells, tape.spec.width, tape.states.shape[1])
        slippage = (rules.slippage_bps, rules.slippage_bps) if episode.slippage_bps is None else episode.slippage_bps
        lowest_ppm, highest_ppm = (round(bps * 100) for bps in slippage)
        self._window = (tape.spans, episode.bars or 0, episode.random_start, (lowest_ppm, highest_ppm))
        scratch = np.zeros(REWARD_INPUTS + 1)
        self._reward = (reward.address, np.array([*parameters, 0.0]), float(episode.reward_scale), scratch)

    def spaces(self) -> "tuple[spaces.Box[np.float32], spaces.Discrete]":
        """Observation and action space of one environment; a state is always finite, and so is its box."""
        limit = float(np.finfo(np.float32).max)
        return spaces.Box(-limit, limit, (self.state_width,), np.float32), spaces.Discrete(self.action_count)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Every array in which the environments keep their state, not copied."""
        return {"envs": self.envs, "accounts": self.accounts, "masks": self.masks, "reward_memory": self._memory}

    def seed(self, seed: int) -> None:
        """Seed env i with seed + i, as N single environments would be."""
        self.envs["random"] = [draw_seed(seeding.np_random(seed + index)[0]) for index in range(self.count)]

    def charge(self, fraction: float) -> None:
        """From now on take this fraction of the tape's charges; the masks follow at once.

        Args:
            fraction: 0 is a market without charges, 1 the tape's own.
        """
        if fraction != self._charged:
            self._charged = fraction
            self._schedules[...] = scaled_schedules(self.tape.schedules, fraction)
            refresh_masks(self._world, self.envs, self.accounts, self.masks)

    def reset(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Start new episodes in the chosen environments (all by default); (N, F) float32, valid in those rows."""
        states = np.zeros((self.count, self.state_width), np.float32)
        picked = np.ones(self.count, np.bool_) if chosen is None else chosen
        reset_envs(picked, self._world, self._window, self.envs, self.accounts, self._memory, states, self.masks)
        return states

    def step(self, actions: NDArray[np.int64]) -> Outcome:
        """Step every environment.

        Args:
            actions: (N,) int64.

        Raises:
            IllegalAction: an action that its mask forbids; no environment was stepped.
            ValueError: not one action per environment.
        """
        if actions.shape != (self.count,):
            raise ValueError(f"expected one action for each of {self.count} environments, found shape {actions.shape}")
        states = np.empty((self.count, self.state_width), np.float32)
        fault = step_envs(
            actions,
            self._world,
            self._window,
            self._reward,
            self.envs,
            self.accounts,
            self._memory,
            self.masks,
            self._autoreset,
            states,
            self._rewards,
            self._terminated,
            self._truncated,
            self._finals,
            self._final_masks,
            self.final_accounts,
        )
        if fault >= 0:
            legal = np.flatnonzero(self.masks[fault]).tolist()
            raise IllegalAction(f"env {fault}: action {actions[fault]} is not legal here; legal actions: {legal}")
        ended = self._finals, self._final_masks, self.final_accounts
        return Outcome(states, self._rewards, self._terminated, self._truncated, *ended)


def _check_length(tape: Tape, episode: EpisodeRules) -> None:
    lengths = np.diff(tape.spans, axis=1)[:, 0]
    if episode.bars is not None and episode.bars > lengths.min():
        symbol = tape.symbols[int(lengths.argmin())]
        raise ValueError(
            f"an episode of {episode.bars} bars does not fit {symbol}, which has {lengths.min()} steps to trade; "
            "shorten episode.bars or give a longer span"
        )


def draw_seed(generator: np.random.Generator) -> int:
    """The seed of a compiled generator, drawn from numpy's."""
    return int(generator.integers(0, 2**64, dtype=np.uint64))
