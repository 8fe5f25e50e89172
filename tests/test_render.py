"""What an episode looks like: a picture, or a line per bar."""

import datetime as dt

import numpy as np
import pytest
from markets import bars_of, replay, rules, session_times, tape_of, walk_env
from numpy.typing import NDArray

from finsense.envs.core import EpisodeRules
from finsense.envs.trading import TradingEnv

BUY, HOLD, SELL = 0, 1, 2


def rendered(mode: str | None) -> TradingEnv:
    """Five steps in a market that climbs by a rupee a bar; delivery, ten shares an order."""
    time_ns = session_times(dt.date(2024, 1, 8), dt.date(2024, 1, 10))
    bars = bars_of(time_ns, [100.0 + number for number in range(len(time_ns))])
    account = rules("delivery", participation=None, slippage_bps=0)
    return TradingEnv(tape_of(bars), account, EpisodeRules(bars=5, random_start=False), mode)


def picture(env: TradingEnv) -> NDArray[np.uint8]:
    drawn = env.render()
    assert drawn is not None
    return drawn


def test_a_picture_is_an_array_of_the_caller_s_own() -> None:
    env = rendered("rgb_array")
    env.reset()
    first = picture(env)
    assert first.shape == (500, 800, 3)
    assert first.dtype == np.uint8
    assert first.flags.writeable
    again = picture(env)
    assert (again == first).all()
    assert not np.shares_memory(again, first)


def test_the_picture_shows_what_happened() -> None:
    env = rendered("rgb_array")
    env.reset()
    env.step(np.int64(HOLD))
    idle = picture(env)
    env.reset()
    env.step(np.int64(BUY))
    traded = picture(env)
    assert (idle != traded).any()
    walk_env(env, replay([BUY, HOLD, SELL, HOLD, HOLD]))
    assert (picture(env) != traded).any()


def test_a_new_episode_starts_a_new_picture() -> None:
    env = rendered("rgb_array")
    env.reset()
    fresh = picture(env)
    walk_env(env, replay([BUY, HOLD, SELL, HOLD, HOLD]))
    env.reset()
    assert (picture(env) == fresh).all()


def test_human_mode_writes_one_line_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    env = rendered("human")
    walk_env(env, replay([BUY, HOLD, SELL, HOLD, HOLD]))
    assert env.render() is None
    # Ten shares at 150 cost 1.79 (STT 1.50, exchange 0.05, stamp 0.23, GST 0.01); the sale at 152 16.92 (STT 1.52,
    # exchange 0.05, GST 0.01, depository 15.34).
    assert capsys.readouterr().out.splitlines() == [
        "2024-01-10 09:15 IST SIM close 150.00 fill +0 position 0 equity 50000.00",
        "2024-01-10 09:30 IST SIM close 151.00 fill +10 position 10 equity 50008.21",
        "2024-01-10 09:45 IST SIM close 152.00 fill +0 position 10 equity 50018.21",
        "2024-01-10 10:00 IST SIM close 153.00 fill -10 position 0 equity 50001.29",
        "2024-01-10 10:15 IST SIM close 154.00 fill +0 position 0 equity 50001.29",
        "2024-01-10 10:30 IST SIM close 155.00 fill +0 position 0 equity 50001.29",
    ]


def test_without_a_mode_nothing_is_kept_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    env = rendered(None)
    walk_env(env, replay([BUY, HOLD, SELL, HOLD, HOLD]))
    assert env.render() is None
    assert capsys.readouterr().out == ""


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"render_mode must be one of \['human', 'rgb_array'\] or None, found 'ansi'"):
        rendered("ansi")
