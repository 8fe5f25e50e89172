"""One training, the same for every learner: from an experiment to a verified bundle, resumable to the bit."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure

from finsense.agents.checkpoint import restore_checkpoint
from finsense.agents.device import training_device
from finsense.agents.export import export_bundle
from finsense.agents.kernels.faults import NotFinite
from finsense.agents.learner import Learner
from finsense.agents.markets import episode_rules, load_markets
from finsense.agents.network import weights_finite, weights_hash
from finsense.agents.progress import Progress, first_interrupt
from finsense.agents.run_folder import BUNDLE, CHECKPOINTS, TENSORBOARD, open_run
from finsense.agents.validation import Judge
from finsense.agents.watch import TrainingError, Watch, diverged
from finsense.config import Experiment, TradingAgent
from finsense.envs.vector import TradingVecEnv


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        run_dir: the run's folder.
        bundle: the bundle of the best weights, inside it.
        steps: environment steps trained.
        seconds: wall time of this process, export included.
        validation: what the best weights did on the validation span, and after how many steps they were reached.
        alarms: what is wrong, or may be, with the conduct of the best weights there: name -> a sentence.
        weights_hash: SHA-256 (hex) of the last weights, the same for the same experiment and seed.
    """

    run_dir: Path
    bundle: Path
    steps: int
    seconds: float
    validation: dict[str, Any]
    alarms: dict[str, str]
    weights_hash: str


def run_training(
    learner: Learner,
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train, keep the weights that did best on the validation span, and export them.

    The first Ctrl-C stops after the rollout with a checkpoint, from which `resume` goes on exactly.

    Args:
        learner: of the experiment's kind of agent.
        experiment: what to train.
        run_dir: the run's folder; it must not hold a run yet, or (resume) the run to go on with.
        resume: go on from the newest checkpoint.
        report: called after each rollout.

    Raises:
        DeviceError: a GPU was asked for, and torch sees none.
        RunError: the folder holds another run or none.
        CheckpointError: the checkpoint to resume is missing or damaged.
        TrainingError: the loss or the weights are no longer finite.
        ExportError: the exported graph does not decide as the network does.
        TrainingInterrupted: Ctrl-C; a checkpoint was saved.
        BarsError, HistoryError, CostError: the data do not serve.
    """
    started_s = time.monotonic()
    assert isinstance(experiment.agent, TradingAgent)
    # Asked before the folder is opened: a run that cannot begin leaves none behind.
    training_device(experiment)
    markets = load_markets(experiment)
    run = open_run(run_dir, experiment, markets, resume)
    with one_thread():
        envs = TradingVecEnv(markets.train, experiment.account, experiment.agent.envs, episode_rules(experiment))
        model = learner.make(experiment, markets, envs)
        judge = Judge(
            markets.validation, experiment.account, episode_rules(experiment), experiment.evaluation.sessions_per_year
        )
        best, evaluated = restore_checkpoint(run_dir / CHECKPOINTS, learner, model, envs) if resume else (None, 0)
        model.set_logger(configure(str(run_dir / TENSORBOARD), ["tensorboard"]))
        texts = {
            "config": f"```yaml\n{experiment.resolved_yaml()}```",
            "git": run["git_commit"] or "not a checkout",
            "data": "\n".join(f"- {symbol}: {digest}" for symbol, digest in run["data_hash"].items()),
        }
        with first_interrupt() as asked_to_stop:
            watch = Watch(
                learner,
                experiment,
                judge,
                run_dir / CHECKPOINTS,
                texts,
                asked_to_stop,
                report,
                best=best,
                evaluated=evaluated,
            )
            _learn(model, experiment.agent.steps, watch)
        model.logger.close()
        assert watch.best is not None
        final_hash, steps = weights_hash(model.policy), model.num_timesteps
        bundle = export_bundle(run_dir / BUNDLE, learner, experiment, markets, model, judge, watch.best, run)
    return Trained(
        run_dir=run_dir,
        bundle=bundle.path,
        steps=steps,
        seconds=time.monotonic() - started_s,
        validation=bundle.manifest.validation,
        alarms=bundle.manifest.alarms,
        weights_hash=final_hash,
    )


def _learn(model: BaseAlgorithm, steps: int, watch: Watch) -> None:
    """Learn until so many steps are done, from where the model stands."""
    done = model.num_timesteps
    try:
        # The watch writes the logs.
        model.learn(max(steps - done, 0), watch, log_interval=None, reset_num_timesteps=done == 0)  # type: ignore[arg-type]
    except NotFinite as error:
        raise TrainingError(f"{diverged(model)}. {error}") from error
    except ValueError as error:
        # torch refuses NaN logits in the middle of an update, before the watch can look at the weights.
        if weights_finite(model.policy):
            raise
        raise diverged(model) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small are fastest on one thread, and the same bits come out on every machine with as many cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
