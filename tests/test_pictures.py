"""The pictures of a validation show what the policy did, and reach TensorBoard as images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_experiment import experiment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finsense.agents.markets import episode_rules, load_markets
from finsense.agents.pictures import Gallery
from finsense.agents.ppo import train
from finsense.agents.run_folder import TENSORBOARD
from finsense.agents.validation import Judge, random_choice
from finsense.config import Experiment

ALL_IN = {"scheme": "orders", "size": {"kind": "all_in"}}
REGIMES = {
    "data__model": "regime_switching",
    "data__regimes": [
        {"drift": 0.001, "volatility": 0.001, "persistence": 0.95},
        {"drift": -0.001, "volatility": 0.003, "persistence": 0.95},
    ],
}


def drawn(setting: Experiment, **choose: Any) -> dict[str, NDArray[np.uint8]]:
    markets = load_markets(setting)
    judge = Judge(markets.validation, setting.account, episode_rules(setting), 248)
    gallery = Gallery(setting, markets.validation)
    decide = choose.get("choose") or random_choice(np.random.default_rng(0))
    first = gallery.pictures(judge.paths(decide))
    again = gallery.pictures(judge.paths(decide if "choose" in choose else random_choice(np.random.default_rng(0))))
    assert {name: raster.tobytes() for name, raster in first.items()} == {
        name: raster.tobytes() for name, raster in again.items()
    }
    return first


def coloured(raster: NDArray[np.uint8], red: int, green: int, blue: int) -> int:
    """Pixels of a colour."""
    return int((raster == np.array([red, green, blue], np.uint8)).all(axis=2).sum())


@pytest.mark.parametrize("changes", [{}, {"account__actions": ALL_IN}, {**REGIMES, "account__actions": ALL_IN}])
def test_a_simulated_market_has_three_pictures(changes: dict[str, Any]) -> None:
    pictures = drawn(experiment(**changes))
    assert {name: raster.shape for name, raster in pictures.items()} == {
        "pictures/equity": (320, 900, 3),
        "pictures/actions": (420, 900, 3),
        "pictures/policy": (320, 900, 3),
    }
    assert all(raster.std() > 5 for raster in pictures.values())


def test_a_random_walk_has_no_picture_of_a_policy() -> None:
    walk = experiment(data__model="random_walk", account__allow_short=True)
    assert set(drawn(walk)) == {"pictures/equity", "pictures/actions"}


def test_the_actions_show_trades_only_where_there_were_some() -> None:
    setting = experiment(account__actions=ALL_IN)
    bought, sold = (44, 160, 44), (214, 39, 40)
    idle = drawn(setting, choose=lambda state, mask: setting.account.hold_action)["pictures/actions"]
    busy = drawn(setting)["pictures/actions"]
    # The legend shows one mark of each.
    assert coloured(busy, *bought) > 3 * coloured(idle, *bought) > 0
    assert coloured(busy, *sold) > 3 * coloured(idle, *sold) > 0


@pytest.mark.parametrize("every", [500, 1])
def test_evaluations_put_them_into_tensorboard(tmp_path: Path, every: int) -> None:
    run = tmp_path / "run"
    train(experiment(agent__eval_every=every, agent__steps=4096), run)
    events = EventAccumulator(str(run / TENSORBOARD), size_guidance={"images": 0})
    events.Reload()
    evaluated = [event.step for event in events.Scalars("eval/log_return")]
    # All where they are few; of many, the first in each tenth of the training. Written with the next rollout's figures.
    rollout, tenths = 256, range(410, 4096, 410)
    steps = evaluated if every == 500 else [min(s for s in evaluated if s - rollout >= tenth) for tenth in tenths]
    assert len(steps) >= 8
    assert set(events.Tags()["images"]) == {"pictures/equity", "pictures/actions", "pictures/policy"}
    for name in events.Tags()["images"]:
        assert [event.step for event in events.Images(name)] == steps
        assert events.Images(name)[0].encoded_image_string[:8] == b"\x89PNG\r\n\x1a\n"
