"""One training of a supervised model, the same for every kind: from an experiment to a verified bundle, resumable."""

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.feature_analysis import selected_columns
from finsense.agents.markets import Markets, episode_rules, load_markets
from finsense.agents.progress import Progress, first_interrupt
from finsense.agents.run_folder import BUNDLE, CHECKPOINTS, TENSORBOARD, open_run
from finsense.agents.supervised.dataset import datasets, supervised
from finsense.agents.supervised.decision import check_decidable, fit_decider
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.supervised.export import export_fitted
from finsense.agents.supervised.model import Fit
from finsense.agents.supervised.source import WarmStartError, warm_start
from finsense.agents.training import Trained, one_thread
from finsense.agents.validation import Judge
from finsense.config import Experiment
from finsense.model.bundle import load_bundle
from finsense.state.scaler import fit_scaler


def run_fit(
    fit: Fit,
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Fit a model, calibrate it, choose its decision rule, judge it on the validation span, and export it.

    The first Ctrl-C stops after the epoch with a checkpoint, from which `resume` goes on exactly.

    Args:
        fit: of the experiment's kind of model.
        experiment: what to fit.
        run_dir: the run's folder; it must not hold a run yet, or (resume) the run to go on with.
        resume: go on from the newest checkpoint; where there is none yet, from the beginning.
        report: called after each epoch.

    Raises:
        RunError: the folder holds another run or none.
        DatasetError, LabelError: nothing can be learned from the labels.
        CalibrationError, ConformalError: the validation span is too short for what is asked.
        WarmStartError: the model cannot start from the earlier bundle.
        AnalysisError, AttributionError, SplitError: the columns cannot be chosen as `agent.select` asks.
        CheckpointError: the checkpoint to resume is damaged.
        TrainingError: the loss or the weights are no longer finite.
        ExportError: the exported graph does not decide as the model does.
        TrainingInterrupted: Ctrl-C; a checkpoint was saved.
        BarsError, HistoryError, CostError: the data do not serve.
    """
    started_s = time.monotonic()
    agent = supervised(experiment)
    markets = load_markets(experiment)
    # Before the folder is opened: a run that cannot begin leaves none behind.
    train, validation = datasets(experiment, markets)
    check_decidable(validation, experiment)
    earlier, inherited = (None, None) if agent.warm_start is None else _earlier_model(experiment, agent.warm_start)
    run = open_run(run_dir, experiment, markets, resume)
    scaler = fit_scaler(markets.train.training_rows(), experiment.state.history, len(ACCOUNT_FEATURES))
    checkpoints = run_dir / CHECKPOINTS
    # A run that was stopped before its first checkpoint begins anew.
    begun = resume and any(checkpoints.glob("step_*"))
    with one_thread(), SummaryWriter(str(run_dir / TENSORBOARD)) as writer:
        if not resume:
            _tell_run(writer, experiment, run)
        with first_interrupt() as asked_to_stop:
            columns, importance = selected_columns(fit, experiment, train, run_dir, asked_to_stop)
            desk = FittingDesk(checkpoints, begun, writer, asked_to_stop, report, columns, earlier)
            fitted = fit(experiment, train, validation, scaler, desk)
        decision = fit_decider(fitted.outputs(validation.windows), train, validation, experiment)
        judge = _judge(experiment, markets)
        bundle = export_fitted(
            run_dir / BUNDLE, fitted, decision, experiment, markets, train, columns, importance, judge, run, inherited
        )
        _tell_result(writer, experiment, {**bundle.manifest.validation, **decision.calibration["measured"]["after"]})
    return Trained(
        run_dir=run_dir,
        bundle=bundle.path,
        steps=fitted.steps,
        seconds=time.monotonic() - started_s,
        validation=bundle.manifest.validation,
        alarms=bundle.manifest.alarms,
        weights_hash=fitted.weights_hash(),
    )


def _earlier_model(experiment: Experiment, path: Path) -> tuple[bytes, tuple[dt.date, dt.date]]:
    """The model in an earlier bundle, and the days that it and those before it were made of.

    Raises:
        WarmStartError: these days reach into what this model is chosen or judged on.
    """
    source, bundle = warm_start(experiment, path), load_bundle(path)
    origin, split = bundle.manifest.provenance, experiment.split
    # On one day all stocks move together, whatever file they come from; only a market that was simulated from another
    # seed has nothing in common with this one.
    before, now = yaml.safe_load(bundle.config)["data"], experiment.data
    one_world = not (before["kind"] == now.kind == "simulated" and before["seed"] != now.seed)
    seen_spans = {name: _days(span) for name, span in origin.spans.items() if name != "test"}
    for seen, begins, name in (
        ("train", split.validation.first, "validation"),
        ("inherited", split.validation.first, "validation"),
        ("validation", split.test.first, "test"),
    ):
        last = seen_spans[seen][1] if seen in seen_spans else None
        if one_world and last is not None and last >= begins:
            raise WarmStartError(
                f"the {seen} span of {path} ends on {last}, after split.{name} begins on {begins}: the earlier model "
                "has seen what this one is judged on. Start from a bundle that was trained before, or set "
                "agent.warm_start to null"
            )
    return source, (min(first for first, _ in seen_spans.values()), max(last for _, last in seen_spans.values()))


def _days(span: tuple[str, str]) -> tuple[dt.date, dt.date]:
    return dt.date.fromisoformat(span[0]), dt.date.fromisoformat(span[1])


def _judge(experiment: Experiment, markets: Markets) -> Judge:
    return Judge(
        markets.validation, experiment.account, episode_rules(experiment), experiment.evaluation.sessions_per_year
    )


def _tell_run(writer: SummaryWriter, experiment: Experiment, run: dict[str, Any]) -> None:
    """What is trained on what, in TensorBoard's text tab."""
    writer.add_text("run/config", f"```yaml\n{experiment.resolved_yaml()}```")
    writer.add_text("run/git", run["git_commit"] or "not a checkout")
    writer.add_text("run/data", "\n".join(f"- {symbol}: {digest}" for symbol, digest in run["data_hash"].items()))


def _tell_result(writer: SummaryWriter, experiment: Experiment, figures: dict[str, Any]) -> None:
    """Settings and figures, in TensorBoard's HPARAMS tab."""
    settings = {**experiment.agent.model_dump(mode="json"), "seed": experiment.seed, "name": experiment.name}
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in settings.items()
    }
    known = {f"eval/{name}": value for name, value in figures.items() if isinstance(value, int | float)}
    writer.add_hparams(plain, known, run_name=".")
