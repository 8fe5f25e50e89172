"""Maskable PPO (Schulman et al. 2017; Huang and Ontanon 2022): from an experiment to a verified bundle."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.logger import configure
from torch import nn

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.checkpoint import restore_checkpoint
from finsense.agents.export import export_bundle
from finsense.agents.markets import Markets, episode_rules, load_markets
from finsense.agents.network import ScaledState, weights_finite, weights_hash
from finsense.agents.progress import Progress, first_interrupt
from finsense.agents.run_folder import BUNDLE, CHECKPOINTS, TENSORBOARD, open_run
from finsense.agents.validation import Judge
from finsense.agents.watch import Watch, diverged
from finsense.config import Experiment
from finsense.envs.vector import TradingVecEnv
from finsense.state.scaler import fit_scaler

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        run_dir: the run's folder.
        bundle: the bundle of the best weights, inside it.
        steps: environment steps trained.
        seconds: wall time of this process, export included.
        validation: what the best weights did on the validation span, and after how many steps they were reached.
        weights_hash: SHA-256 (hex) of the last weights, the same for the same experiment and seed.
    """

    run_dir: Path
    bundle: Path
    steps: int
    seconds: float
    validation: dict[str, Any]
    weights_hash: str


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train, keep the weights that did best on the validation span, and export them.

    The first Ctrl-C stops after the rollout with a checkpoint, from which `resume` goes on exactly.

    Args:
        experiment: what to train.
        run_dir: the run's folder; it must not hold a run yet, or (resume) the run to go on with.
        resume: go on from the newest checkpoint.
        report: called after each rollout.

    Raises:
        RunError: the folder holds another run or none.
        CheckpointError: the checkpoint to resume is missing or damaged.
        TrainingError: the loss or the weights are no longer finite.
        ExportError: the exported graph does not decide as the network does.
        TrainingInterrupted: Ctrl-C; a checkpoint was saved.
        BarsError, HistoryError, CostError: the data do not serve.
    """
    started_s = time.monotonic()
    markets = load_markets(experiment)
    run = open_run(run_dir, experiment, markets, resume)
    with _one_thread():
        envs = TradingVecEnv(markets.train, experiment.account, experiment.agent.envs, episode_rules(experiment))
        model = masked_ppo(experiment, markets, envs)
        judge = Judge(
            markets.validation, experiment.account, episode_rules(experiment), experiment.evaluation.sessions_per_year
        )
        best, evaluated = restore_checkpoint(run_dir / CHECKPOINTS, model, envs) if resume else (None, 0)
        model.set_logger(configure(str(run_dir / TENSORBOARD), ["tensorboard"]))
        texts = {
            "config": f"```yaml\n{experiment.resolved_yaml()}```",
            "git": run["git_commit"] or "not a checkout",
            "data": "\n".join(f"- {symbol}: {digest}" for symbol, digest in run["data_hash"].items()),
        }
        with first_interrupt() as asked_to_stop:
            watch = Watch(
                experiment, judge, run_dir / CHECKPOINTS, texts, asked_to_stop, report, best=best, evaluated=evaluated
            )
            _learn(model, experiment.agent.steps, watch)
        model.logger.close()
        assert watch.best is not None
        final_hash, steps = weights_hash(model.policy), model.num_timesteps
        bundle = export_bundle(run_dir / BUNDLE, experiment, markets, model, judge, watch.best, run)
    return Trained(
        run_dir=run_dir,
        bundle=bundle.path,
        steps=steps,
        seconds=time.monotonic() - started_s,
        validation=bundle.manifest.validation,
        weights_hash=final_hash,
    )


def masked_ppo(experiment: Experiment, markets: Markets, envs: TradingVecEnv) -> MaskablePPO:
    """The learner, its scaler fitted on the training span alone."""
    agent, spec = experiment.agent, experiment.state
    scaler = fit_scaler(markets.train.training_rows(), spec.history, len(ACCOUNT_FEATURES))
    return MaskablePPO(
        MaskableActorCriticPolicy,
        envs,
        learning_rate=agent.learning_rate,
        n_steps=agent.n_steps,
        batch_size=agent.batch_size,
        n_epochs=agent.n_epochs,
        gamma=agent.gamma,
        gae_lambda=agent.gae_lambda,
        clip_range=agent.clip_range,
        ent_coef=agent.ent_coef,
        vf_coef=agent.vf_coef,
        max_grad_norm=agent.max_grad_norm,
        target_kl=agent.target_kl,
        policy_kwargs={
            "net_arch": {"pi": list(agent.net_arch), "vf": list(agent.net_arch)},
            "activation_fn": _ACTIVATIONS[agent.activation],
            "features_extractor_class": ScaledState,
            "features_extractor_kwargs": ScaledState.arguments(scaler),
        },
        seed=experiment.seed,
        device="cpu",
    )


def _learn(model: MaskablePPO, steps: int, watch: Watch) -> None:
    """Learn until so many steps are done, from where the model stands."""
    done = model.num_timesteps
    try:
        model.learn(max(steps - done, 0), callback=watch, reset_num_timesteps=done == 0)
    except ValueError as error:
        # torch refuses NaN logits in the middle of an update, before the watch can look at the weights.
        if weights_finite(model.policy):
            raise
        raise diverged(model) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small are fastest on one thread, and the same bits come out on every machine with as many cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
