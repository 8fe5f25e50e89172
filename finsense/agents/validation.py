"""Judges a policy on the validation span: deterministic, under masks, every symbol from its first bar to its last."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finsense.account.rules import AccountRules
from finsense.envs.core import EpisodeRules
from finsense.envs.tape import Tape
from finsense.envs.vector import TradingVecEnv
from finsense.evaluation.metrics import Performance, performance

# One row, (F,) float32 and (A,) bool, to the chosen action.
Choose = Callable[[NDArray[np.float32], NDArray[np.bool_]], int]


@dataclass(frozen=True)
class Path:
    """What one symbol's account did over a span of n bars.

    Attributes:
        states: (n - 1, F) float32, what was seen at each decision.
        masks: (n - 1, A) bool.
        actions: (n - 1,) int64.
        equity_paise: (n,) int64, at each bar's close; the first is the balance.
        position: (n,) int64, shares at each bar's close.
        reward: sum of the rewards.
        performance: the account's figures.
    """

    states: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    equity_paise: NDArray[np.int64]
    position: NDArray[np.int64]
    reward: float
    performance: Performance


@dataclass(frozen=True)
class Verdict:
    """How a policy did on a span: the mean over its symbols.

    Attributes:
        log_return: log of final over starting equity; what the best checkpoint is chosen by.
        sharpe: annualised, of session returns; NaN where no symbol traded.
        mean_reward: reward of an episode over the whole span.
        mean_ep_length: its decisions.
        max_drawdown: fraction <= 0.
        trades_per_session: closed round trips.
        mean_bars_held: of closed round trips; NaN without one.
        exposure: share of bars with a position.
        charge_share: charges over the gain before charges; NaN without a gain.
        hold_share: share of decisions that hold.
    """

    log_return: float
    sharpe: float
    mean_reward: float
    mean_ep_length: float
    max_drawdown: float
    trades_per_session: float
    mean_bars_held: float
    exposure: float
    charge_share: float
    hold_share: float

    def as_dict(self) -> dict[str, float | None]:
        """JSON-safe: what is undefined is None."""
        return {name: value if np.isfinite(value) else None for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, float | None]) -> "Verdict":
        """The inverse of `as_dict`."""
        return cls(**{name: np.nan if value is None else value for name, value in values.items()})


class Judge:
    """Runs policies over one span, always from the same start.

    Args:
        tape: the span.
        rules: the account's rules.
        episode: whose reward is summed; its length, start and slippage play no part.
        sessions_per_year: for annual figures.

    Attributes:
        state_width: F, values of a state.
        action_count: A.
    """

    def __init__(self, tape: Tape, rules: AccountRules, episode: EpisodeRules, sessions_per_year: int) -> None:
        self.tape = tape
        self._sessions_per_year = sessions_per_year
        self._balance_paise = rules.balance_paise
        self._hold = rules.hold_action
        whole = replace(episode, bars=None, random_start=False, slippage_bps=None)
        self._envs = TradingVecEnv(tape, rules, len(tape.symbols), whole)
        self.state_width = self._envs.core.state_width
        self.action_count = self._envs.core.action_count

    def judge(self, actor: nn.Module) -> Verdict:
        """The policy's figures."""
        return self.verdict(self.paths(actor_choice(actor)))

    def verdict(self, paths: list[Path]) -> Verdict:
        """The figures of paths that were walked."""
        figures = [path.performance for path in paths]
        finals = np.array([max(one.final_equity_paise, 1) for one in figures])
        return Verdict(
            log_return=float(np.log(finals / self._balance_paise).mean()),
            sharpe=_mean([one.sharpe for one in figures]),
            mean_reward=_mean([path.reward for path in paths]),
            mean_ep_length=_mean([len(path.actions) for path in paths]),
            max_drawdown=_mean([one.max_drawdown for one in figures]),
            trades_per_session=_mean([one.trades / one.sessions for one in figures]),
            mean_bars_held=_mean([one.mean_bars_held for one in figures]),
            exposure=_mean([one.exposure for one in figures]),
            charge_share=_mean([one.charge_share for one in figures]),
            hold_share=_mean([float((path.actions == self._hold).mean()) for path in paths]),
        )

    def paths(self, choose: Choose) -> list[Path]:
        """Walk every symbol from its first bar to its last (or to ruin), deciding row by row."""
        recorders = [_Recorder(self.tape, index) for index in range(len(self.tape.symbols))]
        states = np.asarray(self._envs.reset())
        running = list(range(len(recorders)))
        actions = np.full(len(recorders), self._hold, np.int64)
        for index in running:
            recorders[index].mark(self._envs.core.accounts[index])
        while running:
            masks = self._envs.core.masks
            actions[:] = self._hold
            for index in running:
                actions[index] = choose(states[index], masks[index])
                recorders[index].decided(states[index], masks[index], int(actions[index]))
            seen, rewards, dones, infos = self._envs.step(actions)
            states = np.asarray(seen)
            for index in running:
                recorders[index].reward += float(rewards[index])
                recorders[index].mark(infos[index]["account"] if dones[index] else self._envs.core.accounts[index])
            # A finished env has started anew by itself; it is not looked at again.
            running = [index for index in running if not dones[index]]
        return [recorder.path(self._balance_paise, self._sessions_per_year) for recorder in recorders]


def actor_choice(actor: nn.Module) -> Choose:
    """The most probable legal action of a network."""

    def choose(state: NDArray[np.float32], mask: NDArray[np.bool_]) -> int:
        with torch.inference_mode():
            action, _ = actor(torch.from_numpy(state[None]), torch.from_numpy(mask[None]))
        return int(action)

    return choose


def random_choice(generator: np.random.Generator) -> Choose:
    """Any legal action, all with the same chance."""
    return lambda state, mask: int(generator.choice(np.flatnonzero(mask)))


class _Recorder:
    """Collects one symbol's path."""

    def __init__(self, tape: Tape, index: int) -> None:
        self._tape = tape
        self._first = int(tape.spans[index, 0])
        self._states: list[NDArray[np.float32]] = []
        self._masks: list[NDArray[np.bool_]] = []
        self._actions: list[int] = []
        self._equity: list[int] = []
        self._position: list[int] = []
        self._fills: list[tuple[int, int, int, int]] = []
        self.reward = 0.0

    def decided(self, state: NDArray[np.float32], mask: NDArray[np.bool_], action: int) -> None:
        self._states.append(state.copy())
        self._masks.append(mask.copy())
        self._actions.append(action)

    def mark(self, account: np.void) -> None:
        """Take the books at the close of the next bar."""
        for kind in ("fill", "stop_fill"):
            quantity = int(account[f"{kind}_quantity"])
            if quantity:
                price, charges = int(account[f"{kind}_price_paise"]), int(account[f"{kind}_charges_paise"])
                self._fills.append((len(self._equity), quantity, price, charges))
        self._equity.append(int(account["equity_paise"]))
        self._position.append(int(account["position"]))

    def path(self, balance_paise: int, sessions_per_year: int) -> Path:
        bars = slice(self._first, self._first + len(self._equity))
        fills = np.array(self._fills, np.int64).reshape(-1, 4)
        equity, position = np.array(self._equity, np.int64), np.array(self._position, np.int64)
        figures = performance(
            time_ns=self._tape.times[bars],
            day=self._tape.markets["day"][bars],
            equity_paise=equity,
            position=position,
            close_paise=self._tape.markets["close_paise"][bars],
            fill_bar=fills[:, 0],
            fill_quantity=fills[:, 1],
            fill_price_paise=fills[:, 2],
            fill_charges_paise=fills[:, 3],
            balance_paise=balance_paise,
            sessions_per_year=sessions_per_year,
        )
        actions = np.array(self._actions, np.int64)
        states, masks = np.array(self._states), np.array(self._masks)
        return Path(states, masks, actions, equity, position, self.reward, figures)


def _mean(values: list[float]) -> float:
    """The mean of what is defined; NaN where nothing is."""
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")
