"""An untrained policy of the usual size, as Stable-Baselines3 runs it and as we export it: the same weights twice."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from benchmarks.markets import SYMBOL, account_rules, bars_of, setting, tape_of
from benchmarks.measurement import Effort
from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.golden_bars import golden_bars
from finsense.agents.graph import export_graph
from finsense.agents.network import MaskedActor, ScaledState
from finsense.envs.vector import TradingVecEnv
from finsense.model.bundle import Bundle, write_bundle
from finsense.model.golden import record_golden
from finsense.model.manifest import Manifest, Provenance
from finsense.model.onnx_policy import OnnxPolicy
from finsense.model.policy import Decision, Policy
from finsense.state.scaler import fit_scaler

_INTERVAL = "5m"


@cache
def untrained() -> MaskablePPO:
    """MaskablePPO with its default network, 64 x 64, behind the scaler."""
    torch.set_num_threads(1)  # faster than more for a network so small, and what training does
    tape = tape_of(bars_of(Effort(), days=60)[SYMBOL])
    scaler = fit_scaler(tape.training_rows(), tape.spec.history, len(ACCOUNT_FEATURES))
    layer = {"features_extractor_class": ScaledState, "features_extractor_kwargs": ScaledState.arguments(scaler)}
    envs = TradingVecEnv(tape, account_rules(), 1)
    return MaskablePPO(MaskableActorCriticPolicy, envs, policy_kwargs=layer, seed=0, device="cpu")


@cache
def exported() -> bytes:
    """Its ONNX graph."""
    return export_graph(MaskedActor(untrained().policy), _state_width(), _action_count())


class PredictPolicy(Policy):
    """The peer: the policy as `MaskablePPO.predict` decides."""

    def __init__(self) -> None:
        self._model = untrained()

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Decide on one state, (1, F) float32, under one mask, (1, A) bool; it tells no probabilities."""
        action, _ = self._model.predict(state, action_masks=mask, deterministic=True)
        return Decision(int(action[0]), np.empty(0, np.float32))


def onnx_policy() -> OnnxPolicy:
    """The policy as a live box runs it."""
    return OnnxPolicy(exported(), _state_width(), _action_count())


def bundle(folder: Path) -> Bundle:
    """A verified bundle of it."""
    terms, policy = setting(), onnx_policy()
    states = np.random.default_rng(0).normal(size=(8, _state_width())).astype(np.float32)
    masks = np.ones((8, _action_count()), np.bool_)
    golden = record_golden(policy, states, masks, golden_bars(terms.state, _INTERVAL), terms.state)
    manifest = Manifest(
        name="untrained",
        kind="benchmark",
        symbols=(SYMBOL,),
        interval=_INTERVAL,
        derivatives=None,
        state=terms.state,
        state_hash=terms.state.hash(),
        columns=terms.state.columns,
        actions=terms.account.action_names,
        account=terms.account,
        costs=terms.costs,
        sessions_per_year=terms.sessions_per_year,
        provenance=Provenance(
            config_hash="", data_hash={}, spans={}, seed=0, steps=0, git_commit="", versions={}, weights_hash=""
        ),
        validation={},
    )
    return write_bundle(folder, exported(), manifest, golden, "name: untrained\n", "# An untrained policy\n")


def _state_width() -> int:
    return setting().state.width + len(ACCOUNT_FEATURES)


def _action_count() -> int:
    return len(account_rules().action_names)
