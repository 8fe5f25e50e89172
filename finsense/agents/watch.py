"""Watches a training between its rollouts: figures, evaluations, the best weights, checkpoints, and the end."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from finsense.agents.checkpoint import Best, save_checkpoint, saved_weights
from finsense.agents.learner import Learner
from finsense.agents.network import weights_finite
from finsense.agents.pathologies import ALARMS, judge_conduct, rollout_conduct
from finsense.agents.pictures import Gallery
from finsense.agents.progress import Progress, TrainingInterrupted
from finsense.agents.rollout_figures import decision_figures, episode_figures, exposure_figures
from finsense.agents.validation import Judge, actor_choice
from finsense.agents.validation import Path as Walk
from finsense.config import Experiment, TradingAgent
from finsense.envs.vector import TradingVecEnv

log = structlog.get_logger()

_WINDOW = 100
# Drawings over a training: TensorBoard shows so many of a tag, and each costs a fifth of a second.
_PICTURES = 10
# They are logged as scalars of the same names, or TensorBoard's HPARAMS tab stays empty.
_METRICS = (
    "eval/log_return",
    "eval/mean_reward",
    "eval/sharpe",
    "portfolio/net_return",
    "rollout/ep_rew_mean",
    "trades/per_day",
)


class TrainingError(ValueError):
    """A training that cannot go on."""


class Watch(BaseCallback):
    """Acts between two rollouts, where the weights are settled and an exact resume is possible.

    Args:
        learner: of the experiment's kind of agent.
        experiment: what is trained.
        judge: of the validation span.
        checkpoints: their folder.
        texts: shown in TensorBoard's text tab, name -> markdown.
        asked_to_stop: set when the run shall end with a checkpoint.
        report: called with the progress after each rollout.
        best: best weights so far, of a resumed run.
        evaluated: environment steps at the last evaluation, of a resumed run.
    """

    model: OnPolicyAlgorithm | OffPolicyAlgorithm

    def __init__(
        self,
        learner: Learner,
        experiment: Experiment,
        judge: Judge,
        checkpoints: Path,
        texts: dict[str, str],
        asked_to_stop: threading.Event,
        report: Callable[[Progress], None] | None,
        best: Best | None = None,
        evaluated: int = 0,
    ) -> None:
        super().__init__()
        self.best = best
        self._learner = learner
        self._experiment = experiment
        assert isinstance(experiment.agent, TradingAgent)
        self._agent = experiment.agent
        self._judge = judge
        self._checkpoints = checkpoints
        self._texts = texts
        self._asked_to_stop = asked_to_stop
        self._report = report
        self._evaluated = evaluated
        self._latest = best.verdict if best else None
        self._alarms: dict[str, str] = {}
        self._gallery = Gallery(experiment, judge.tape)
        self._drawn = 0
        self._ended: deque[NDArray[Any]] = deque(maxlen=_WINDOW)
        self._ended_bars: deque[int] = deque(maxlen=_WINDOW)

    def _on_training_start(self) -> None:
        self._settled = self._saved = self._checked = self._reported = self._first_step = self.model.num_timesteps
        self._started_s = time.monotonic()
        tape = self._envs.core.tape
        bars = sum(int(last) - int(first) + 1 for first, last in tape.spans)
        days = sum(len(set(tape.markets["day"][first : last + 1].tolist())) for first, last in tape.spans)
        self._bars_per_session = bars / days
        if self._first_step == 0:
            settings = {**self._agent.model_dump(mode="json"), **_flat("reward", self._experiment.reward.model_dump())}
            settings |= {"seed": self._experiment.seed, "name": self._experiment.name}
            plain = {
                name: value if isinstance(value, bool | int | float | str) else str(value)
                for name, value in settings.items()
            }
            self._record("hparams", HParam(plain, dict.fromkeys(_METRICS, 0.0)))
            for name, text in self._texts.items():
                self._record(f"run/{name}", text)

    def _on_step(self) -> bool:
        dones = self.locals["dones"]
        if dones.any():
            for index in dones.nonzero()[0].tolist():
                info = self.locals["infos"][index]
                self._ended.append(info["account"])
                self._ended_bars.append(info["episode"]["l"])
        return True

    def _on_rollout_end(self) -> None:
        steps = self.model.num_timesteps - self._reported
        if steps < self._agent.report_steps:
            return
        self._reported = self.model.num_timesteps
        found = self._learner.decisions(self.model, steps)
        names, hold = self._experiment.account.action_names, self._experiment.account.hold_action
        decisions = decision_figures(found, names, hold)
        episodes = episode_figures(
            list(self._ended), self._ended_bars, self._experiment.account.balance_paise, self._bars_per_session
        )
        conduct = rollout_conduct(found, self._experiment.account)
        for name, value in {
            **decisions,
            **exposure_figures(found, self._bars_per_session),
            **episodes,
            **conduct,
        }.items():
            self.logger.record(name, value)
        self.model.dump_logs()
        if self._report is not None:
            trades = episodes.get("trades/per_episode", math.nan)
            self._report(self._progress(trades, decisions[f"actions/{names[hold].replace(' ', '_')}_share"]))

    def _on_rollout_start(self) -> None:
        self._settle(last=False)
        curriculum = self._experiment.episode.charges
        if curriculum is not None:
            # A function of the steps alone, so a resumed run takes the charges that it would have taken.
            fraction = curriculum.fraction(self.model.num_timesteps / self._agent.steps)
            self._envs.core.charge(fraction)
            self.logger.record("policy/charged_fraction", fraction)

    def _on_training_end(self) -> None:
        self._settle(last=True)
        self.logger.dump(self.model.num_timesteps)

    @property
    def _envs(self) -> TradingVecEnv:
        envs = self.model.env
        assert isinstance(envs, TradingVecEnv)
        return envs

    def _settle(self, last: bool) -> None:
        """Everything that is due at this step."""
        steps = self.model.num_timesteps
        # Looked at once: a Ctrl-C during the evaluation below waits for the next rollout, and then all is saved.
        stop = self._asked_to_stop.is_set()
        if steps > self._settled or last:
            self._settled = steps
            judge = steps > self._evaluated and (last or _due(steps, self._evaluated, self._agent.eval_every))
            save = steps > self._saved and (last or stop or _due(steps, self._saved, self._agent.checkpoint_every))
            if judge or save or last or steps - self._checked >= self._agent.report_steps:
                self._refuse_nan()
                self._checked = steps
            if judge:
                self._evaluate()
            if save:
                save_checkpoint(self._checkpoints, self._learner, self.model, self._envs, self.best, self._evaluated)
                self._saved = steps
        if stop:
            raise TrainingInterrupted(f"interrupted after {steps} steps; the run can be resumed")

    def _evaluate(self) -> None:
        paths = self._judge.paths(actor_choice(self._learner.actor(self._experiment, self.model)))
        verdict = self._judge.verdict(paths)
        steps = self._evaluated = self.model.num_timesteps
        self._latest = verdict
        for name, value in verdict.as_dict().items():
            if value is not None:
                self.logger.record(f"eval/{name}", value)
        if self.best is None or verdict.log_return > self.best.verdict.log_return:
            self.best = Best(steps, verdict, saved_weights(self.model))
        self._tell_conduct(paths)
        if _due(steps, self._drawn, -(-self._agent.steps // _PICTURES)):
            self._drawn = steps
            for name, raster in self._gallery.pictures(paths).items():
                self._record(name, Image(raster, "HWC"))
        log.info("evaluated", steps=steps, log_return=round(verdict.log_return, 5), best=self.best.steps == steps)

    def _tell_conduct(self, paths: list[Walk]) -> None:
        """What the policy does wrong, as tags; a fault that the last evaluation did not have is logged too."""
        figures, alarms = judge_conduct(paths, self._experiment.account)
        for name, value in {**figures, **{name: float(name in alarms) for name in ALARMS}}.items():
            self.logger.record(f"policy/{name}", value)
        for name in alarms.keys() - self._alarms.keys():
            log.warning("the policy raises an alarm", steps=self.model.num_timesteps, alarm=name, says=alarms[name])
        self._alarms = alarms

    def _refuse_nan(self) -> None:
        loss = self.logger.name_to_value.get("train/loss", 0.0)
        if not math.isfinite(loss) or not weights_finite(self.model.policy):
            raise diverged(self.model)

    def _progress(self, trades: float, hold_share: float) -> Progress:
        rollout = self._agent.rollout_steps
        # A rollout is never cut short, so the last one may end beyond the steps that were asked for.
        steps, total = self.model.num_timesteps, -(-self._agent.steps // rollout) * rollout
        pace = (steps - self._first_step) / max(time.monotonic() - self._started_s, 1e-9)
        rewards = [info["r"] for info in self.model.ep_info_buffer or ()]
        return Progress(
            steps=steps,
            total=total,
            steps_per_s=pace,
            seconds_left=(total - steps) / pace,
            reward_mean=sum(rewards) / len(rewards) if rewards else math.nan,
            trades_per_episode=trades,
            hold_share=hold_share,
            last_eval=self._latest,
            evaluated=self._evaluated,
        )

    def _record(self, name: str, value: Any) -> None:
        self.logger.record(name, value, exclude=("stdout", "log", "json", "csv"))


def diverged(model: BaseAlgorithm) -> TrainingError:
    """The error for weights or a loss that are not finite."""
    return TrainingError(
        f"the loss or the weights are no longer finite after {model.num_timesteps} steps (update {model._n_updates}); "
        "the last good checkpoint was kept. Lower agent.learning_rate or reward.scale, and look at train/ in"
        " TensorBoard"
    )


def _due(steps: int, before: int, every: int) -> bool:
    return steps // every > before // every


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in values.items()}
