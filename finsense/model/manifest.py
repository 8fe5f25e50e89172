"""What a bundle says of itself: bundle.json."""

import datetime as dt
from math import fsum, isclose
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import AccountRules
from finsense.market.costs import ChargeRules
from finsense.state.spec import StateSpec


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Candidate(_Part):
    """One of several trainings of which one was chosen.

    Attributes:
        name: of its run, such as `seed_3` or `trial_0012`.
        state: `finished`; `pruned` (stopped early for its evaluations); `infeasible` (its values did not go together);
            or `failed`.
        log_return: on the validation span; of a pruned one at its last evaluation; None where there is none.
        sharpe: likewise.
    """

    name: str
    state: Literal["finished", "pruned", "infeasible", "failed"]
    log_return: float | None
    sharpe: float | None


class Selection(_Part):
    """How the policy was chosen among others that were trained beside it.

    Statistics that correct for the choice (such as the deflated Sharpe ratio) need every candidate, also the failed.

    Attributes:
        among: `seeds` of one experiment, or `trials` of a search for hyperparameters.
        metric: figure of the validation span that they were compared by.
        candidates: all of them.
        chosen: name of the exported one.
        reason: why that one.
        interquartile_mean: of the finished seeds' metric; None for trials.
        interval: 95 % bootstrap interval of it; None for trials and for a single seed.
        test: figures of the chosen one on the test span, which was touched this once; None: not touched.
    """

    among: Literal["seeds", "trials"]
    metric: str
    candidates: tuple[Candidate, ...]
    chosen: str
    reason: str
    interquartile_mean: float | None = None
    interval: tuple[float, float] | None = None
    test: dict[str, Any] | None = None

    def count(self, state: str) -> int:
        """How many candidates ended so."""
        return sum(one.state == state for one in self.candidates)


# Spans whose data a policy was made of: its weights, its choice and calibration, and what it was started from.
_SEEN = ("train", "validation", "inherited")


class Provenance(_Part):
    """Where a policy comes from.

    Attributes:
        config_hash: SHA-256 of the resolved experiment.
        data_hash: symbol -> SHA-256 of its bars.
        spans: train, validation and test -> first and last IST date (ISO), both inclusive; `inherited` covers the days
            that the models were made of from which it was started.
        seed: of the training.
        steps: environment steps trained.
        git_commit: of the training code; empty when it was not run from a checkout.
        versions: library -> version.
        weights_hash: SHA-256 of the trained weights.
        selection: how it was chosen among others; None where it was trained alone.
    """

    config_hash: str
    data_hash: dict[str, str]
    spans: dict[str, tuple[str, str]]
    seed: int
    steps: int
    git_commit: str
    versions: dict[str, str]
    weights_hash: str
    selection: Selection | None = None

    def seen_between(self, first: dt.date, last: dt.date) -> tuple[str, ...]:
        """Names of the spans that the policy was made of and that share a day with these dates, both included.

        The dates decide, whatever the symbol: on one day all stocks move together.
        """
        return tuple(
            name
            for name, (start, stop) in self.spans.items()
            if name in _SEEN and dt.date.fromisoformat(start) <= last and first <= dt.date.fromisoformat(stop)
        )


class Forecast(_Part):
    """How a supervised model forecasts, and how its forecast becomes an action.

    Attributes:
        label: the rule of its labels, as in the experiment's `agent.label`.
        classes: what `forecast` gives the probabilities of.
        columns: names of the market columns that it reads; the others of the state it ignores.
        calibration: how its probabilities were calibrated and what that did, measured on the validation span.
        decision: the numbers of its decision rule: expected moves, round trip, conformal quantile.
        importance: what each column told over folds of the training span; None where that was not asked for.
    """

    label: dict[str, Any]
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    calibration: dict[str, Any]
    decision: dict[str, Any]
    importance: dict[str, Any] | None = None


class Member(_Part):
    """One voice of an ensemble.

    Attributes:
        name: of its folder under `members`.
        identity: of its bundle; one that has another is not heard.
        weight: at the start of a run; those of all members sum to 1.
        accuracy: share of its votes for a direction that were right before the run, drawn towards that of all.
        prior_votes: as how many votes `accuracy` counts beside those of the run.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    identity: str
    weight: Annotated[float, Field(ge=0, le=1)]
    accuracy: Annotated[float, Field(gt=0, lt=1)]
    prior_votes: Annotated[float, Field(gt=0)]


class Stack(_Part):
    """A multinomial logistic regression from the members' probabilities to the class of the forward return.

    Attributes:
        centre: per member and action, the mean probability at the fit, which stands in for a member that is dropped.
        coefficients: one row of as many numbers for each of down, flat and up.
        intercepts: one for each of them.
    """

    centre: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    intercepts: tuple[float, float, float]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        lengths = [len(row) for row in self.coefficients]
        if set(lengths) != {len(self.centre)}:
            raise ValueError(f"expected {len(self.centre)} coefficients per class, found {lengths}")
        return self


class EnsembleSpec(_Part):
    """How several bundles decide together.

    Attributes:
        method: `vote`, `mean` of the probabilities, or `stacking`.
        members: whose answers count.
        consensus: how many members must vote for an order, or (without a vote) must answer at all.
        horizon: bars from the fill to the exit, after which a vote is known to be right or wrong.
        dead_zone: a vote is right when the log return has its sign and is larger than this.
        forgetting: what all earlier outcomes are multiplied by at each new one; None: the weights stay as they are.
        stack: the regression, of `stacking`.
        measured: on what the weights were measured, and what must be known of that.
    """

    method: Literal["vote", "mean", "stacking"]
    members: Annotated[tuple[Member, ...], Field(min_length=2)]
    consensus: Annotated[int, Field(ge=1)]
    horizon: Annotated[int, Field(ge=1)]
    dead_zone: Annotated[float, Field(ge=0)]
    forgetting: Annotated[float, Field(ge=0, le=1)] | None
    stack: Stack | None = None
    measured: dict[str, Any] = {}

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        names = [member.name for member in self.members]
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError(f"members must have different names, found {names}")
        weights = [member.weight for member in self.members]
        if not isclose(fsum(weights), 1.0, abs_tol=1e-6):
            raise ValueError(f"the members' weights must sum to 1, found {weights}, which sum to {fsum(weights):g}")
        if self.consensus > len(names):
            raise ValueError(f"a consensus of {self.consensus} cannot be had among {len(names)} members")
        if (self.stack is not None) != (self.method == "stacking"):
            raise ValueError(f"method {self.method} {'takes no' if self.stack else 'needs its'} regression")
        return self


class Manifest(_Part):
    """Everything a backtest or a live loop needs to run the policy as it was trained.

    Attributes:
        format: version of the bundle's layout.
        name: of the experiment.
        kind: the learner.
        symbols: on which it was trained.
        interval: of its bars.
        derivatives: whether its stocks were taken to have derivatives (their hours since 3 Aug 2026); None: as known.
        state: what it sees.
        state_hash: hash of `state`.
        columns: names of the market columns, as the kernels that trained it gave them.
        actions: one name per action.
        account: the account's rules.
        costs: the charges.
        sessions_per_year: for annual figures.
        provenance: where it comes from.
        validation: results on the validation span.
        alarms: what was wrong, or may be, with its conduct on the validation span: name -> a sentence.
        forecast: of a supervised model; None for an agent.
        ensemble: of several bundles that decide together, `kind` ensemble; None for one alone.
    """

    format: Literal[1] = 1
    name: str
    kind: str
    symbols: tuple[str, ...]
    interval: str
    derivatives: bool | None
    state: StateSpec
    state_hash: str
    columns: tuple[str, ...]
    actions: tuple[str, ...]
    account: AccountRules
    costs: ChargeRules
    sessions_per_year: int
    provenance: Provenance
    validation: dict[str, Any]
    alarms: dict[str, str] = {}
    forecast: Forecast | None = None
    ensemble: EnsembleSpec | None = None

    @property
    def state_width(self) -> int:
        """F: history x market columns, and the account's features."""
        return self.state.width + len(ACCOUNT_FEATURES)
