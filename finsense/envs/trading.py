"""The Gymnasium environment: one account on one market, registered as finsense/Trading-v0."""

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from finsense.account.rules import AccountRules
from finsense.envs.core import EpisodeRules, TradingCore, draw_seed
from finsense.envs.render import EpisodeRecord, draw_episode, status_line
from finsense.envs.tape import Tape

# The fields of the account that every `info` carries, as whole numbers.
_FILL = ("quantity", "price_paise", "charges_paise")
_INFO = ("equity_paise", "position", *(f"{kind}_{part}" for kind in ("fill", "stop_fill") for part in _FILL))


class TradingEnv(gym.Env[NDArray[np.float32], np.int64]):
    """Trade one symbol at a time: decide on a bar's close, fill at the next open, be paid by the equity after charges.

    Observation: (F,) float32, history x market columns, then position, cash, unrealised return, holding time, drawdown.
    Action: Discrete(3) BUY, HOLD, SELL (or one per target and HOLD); `action_masks()` tells which are legal.
    Reward: by default the change of the log equity after charges.
    `terminated`: the account is ruined. `truncated`: the window of bars is over; the data may go on.

    Args:
        tape: the prepared market.
        rules: the account's rules.
        episode: reward, length and start of an episode.
        render_mode: `rgb_array` draws price, trades and equity of the episode; `human` writes a line per bar.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 4}  # noqa: RUF012  (gymnasium's own form)

    def __init__(
        self,
        tape: Tape,
        rules: AccountRules,
        episode: EpisodeRules | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode must be one of {self.metadata['render_modes']} or None, found {render_mode!r}"
            )
        self.core = TradingCore(tape, rules, episode or EpisodeRules(), count=1, autoreset=False)
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.core.spaces()
        self._actions = np.zeros(1, np.int64)
        self._books = {name: self.core.accounts[name] for name in _INFO}
        self._over = True
        self._record: EpisodeRecord | None = None

    def action_masks(self) -> NDArray[np.bool_]:
        """The legal actions now, (A,) bool; holding is always among them."""
        legal: NDArray[np.bool_] = self.core.masks[0].copy()
        return legal

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; a seed fixes it and all that follow."""
        super().reset(seed=seed)
        if seed is not None or self.core.envs["random"][0] == 0:
            self.core.envs["random"] = draw_seed(self.np_random)
        states = self.core.reset()
        self._over = False
        if self.render_mode is not None:
            self._record = EpisodeRecord(self.core)
            self._show()
        return states[0], self._info()

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Order, let the next bar fill it, and mark.

        Raises:
            IllegalAction: the mask forbids the action; nothing was done.
            RuntimeError: the episode is over.
        """
        if self._over:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._actions[0] = action
        outcome = self.core.step(self._actions)
        terminated, truncated = outcome.terminated.item(), outcome.truncated.item()
        self._over = terminated or truncated
        if self._record is not None:
            self._record.append(self.core)
            self._show()
        return outcome.states[0], outcome.rewards.item(), terminated, truncated, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """The episode so far as a picture, (height, width, 3) uint8, in mode `rgb_array`."""
        if self.render_mode != "rgb_array" or self._record is None:
            return None
        return draw_episode(self._record)

    def _info(self) -> dict[str, Any]:
        return {name: value.item() for name, value in self._books.items()}

    def _show(self) -> None:
        if self.render_mode == "human" and self._record is not None:
            sys.stdout.write(status_line(self._record) + "\n")
