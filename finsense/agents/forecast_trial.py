"""Puts a bundle on trial: its forecast against the labels of a span, and its trading beside the baselines."""

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from finsense.agents.labels import LabelError, Labels, label_bars
from finsense.config.labels import Direction, Label
from finsense.evaluation.backtest import Report, Setting, backtest
from finsense.evaluation.baselines import run_baselines
from finsense.evaluation.classification import Classification, Forecasts, classify
from finsense.evaluation.stance import Overheard, stance_probabilities, stances
from finsense.market.bars import Bars
from finsense.model.ensemble import EnsemblePolicy
from finsense.model.manifest import Manifest
from finsense.model.onnx_policy import OnnxPolicy

Dates = tuple[dt.date | None, dt.date | None]


class TrialError(ValueError):
    """A trial that would prove nothing."""


@dataclass(frozen=True)
class Trial:
    """What came of it.

    Attributes:
        label: the rule of the labels.
        source: `forecast`, the graph's own, or `actions`, the probabilities of its actions read as directions.
        seen: names of the spans of the policy's making that overlap this one; none for a trial out of sample.
        unlabelled: decisions without a label: the last ones of a session or of the span.
        classification: of the forecast.
        report: of the trading.
        baselines: of theirs, over the same bars.
    """

    label: Label
    source: Literal["forecast", "actions"]
    seen: tuple[str, ...]
    unlabelled: int
    classification: Classification
    report: Report
    baselines: tuple[Report, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe: the forecast first, then the documented figures of the backtest."""
        return {
            "in_sample": list(self.seen),
            "label": self.label.model_dump(mode="json"),
            "forecast_source": self.source,
            "unlabelled_decisions": self.unlabelled,
            "forecast": self.classification.as_dict(),
            **self.report.summary(),
            "baselines": {one.name: one.summary() for one in self.baselines},
        }


def seen_spans(manifest: Manifest, bars: Bars, first: dt.date | None, last: dt.date | None) -> tuple[str, ...]:
    """Names of the spans that a policy was made of and that share a day with a span of the bars, both ends included."""
    return manifest.provenance.seen_between(first or bars.first_date, last or bars.last_date)


def label_of(manifest: Manifest, horizon: int | None) -> Label:
    """The rule of the labels: a supervised model's own; else a direction over `horizon` bars beyond the charges.

    An ensemble's horizon is that of its votes, unless another is given.

    Raises:
        TrialError: a horizon is missing, or one is given that the model does not forecast.
    """
    if manifest.forecast is not None:
        found: Label = TypeAdapter(Label).validate_python(manifest.forecast.label)
        if horizon is not None and horizon != found.horizon:
            raise TrialError(
                f"{manifest.name} forecasts over {found.horizon} bars, found --horizon {horizon}: leave it out"
            )
        return found
    if horizon is None and manifest.ensemble is not None:
        horizon = manifest.ensemble.horizon
    if horizon is None:
        raise TrialError(
            f"{manifest.name} ({manifest.kind}) was trained without labels: say with --horizon over how many bars the "
            "direction counts"
        )
    return Direction(kind="direction", horizon=horizon)


def hold_trial(
    name: str,
    policy: OnnxPolicy | EnsemblePolicy,
    bars: Bars,
    setting: Setting,
    label: Label,
    span: Dates,
    *,
    seen: tuple[str, ...] = (),
    baselines: bool = True,
) -> Trial:
    """Run the policy over a span, judge its forecast at every bar that has a label, and its trading.

    A label that looks at a bar after the span is left out.

    Args:
        name: of the policy.
        policy: of a bundle.
        bars: of one symbol, with the warm-up before the span.
        setting: the terms it was trained under.
        label: the rule of the labels.
        span: first and last IST date, both inclusive; None reaches as far as the bars do.
        seen: see `Trial`.
        baselines: whether to judge them too.

    Raises:
        LabelError: no decision has a label.
        HistoryError, BarsError, CostError: as in `backtest`.
    """
    overheard = Overheard(policy)
    report = backtest(name, overheard, bars, setting, *span)
    trace = report.trace
    labels = label_bars(bars.between(None, span[1]), label, setting.account, setting.costs)
    row, labels = _met(trace.time_ns, labels)
    if not len(row):
        raise LabelError(
            f"expected decisions whose label is known, found {len(trace.time_ns)} decisions and none of them with a "
            f"label of {label.horizon} bars within the span; widen the span"
        )
    states = trace.states[row]
    by_action = stances(setting.account, states)
    stated = policy.forecast(states)
    forecast = stance_probabilities(overheard.probabilities[row], by_action) if stated is None else stated
    classification = classify(
        Forecasts(
            probabilities=forecast,
            acted=np.take_along_axis(by_action, trace.actions[row, None], axis=1)[:, 0],
            target=labels.target,
            span_bars=int((labels.last_bar - labels.bar).max()),
        )
    )
    return Trial(
        label=label,
        source="actions" if stated is None else "forecast",
        seen=seen,
        unlabelled=len(trace.time_ns) - len(row),
        classification=classification,
        report=report,
        baselines=tuple(run_baselines(bars, setting, *span)) if baselines else (),
    )


def _met(time_ns: NDArray[np.int64], labels: Labels) -> tuple[NDArray[np.int64], Labels]:
    """The decisions that have a label, as rows of the trace, and their labels."""
    row = np.minimum(np.searchsorted(time_ns, labels.start_ns), len(time_ns) - 1)
    met = time_ns[row] == labels.start_ns
    return row[met], Labels(**{name: values[met] for name, values in vars(labels).items()})
