"""Builds an ensemble of bundles: measures who is right how often, weighs them by that, and writes it."""

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from math import fsum, inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from finsense.agents.ensemble_card import ensemble_card
from finsense.agents.ensemble_members import EnsembleError, common_horizon, first_unseen, span_of
from finsense.agents.provenance import git_commit
from finsense.agents.stacking import fit_stack
from finsense.agents.voter_record import Trial, VoterRecord, ran, record_of, setting_of, usual_round_trip
from finsense.config.rendering import to_yaml
from finsense.market.bars import Bars
from finsense.model.bundle import Bundle, write_ensemble
from finsense.model.ensemble import EnsemblePolicy, Seat
from finsense.model.golden import Golden
from finsense.model.manifest import EnsembleSpec, Manifest, Member, Provenance
from finsense.model.onnx_policy import OnnxPolicy

METHODS = ("vote", "mean", "stacking")
_DAY = dt.timedelta(days=1)
# As how many votes what all members have in common counts beside a member's own: few votes say little.
_POOLED_VOTES = 20
# A golden state is decided so clearly that another processor's arithmetic decides it alike.
_CLEAR = 1e-3


@dataclass(frozen=True)
class Recipe:
    """How an ensemble is to decide.

    Attributes:
        method: `vote`, `mean` or `stacking`.
        consensus: how many members an order needs; None: 60 % of them, rounded up.
        forgetting: see `EnsembleSpec`.
        horizon: bars; None: that of the members' labels, or 6 where they have none.
        dead_zone: round trips of charges and slippage that a move must be worth for a vote to be right.
        prior_votes: as how many votes at most the measured accuracy counts beside those of a run.
        weights: at the start, one per member; None: in proportion to the measured accuracies.
    """

    method: Literal["vote", "mean", "stacking"] = "vote"
    consensus: int | None = None
    forgetting: float | None = 0.99
    horizon: int | None = None
    dead_zone: float = 1.0
    prior_votes: float = 100.0
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Built:
    """An ensemble and how its members did on the span that it was built on.

    Attributes:
        bundle: the ensemble.
        records: name -> record of each member.
    """

    bundle: Bundle
    records: dict[str, VoterRecord]


def build_ensemble(
    members: Mapping[str, Bundle], out: Path, recipe: Recipe, markets: Mapping[str, Bars], first: dt.date, last: dt.date
) -> Built:
    """Measure the members over a span, weigh them, fit what is to be fitted, and write the ensemble.

    Args:
        members: as `load_members` gives them.
        out: folder to write; it must not exist.
        recipe: how they decide.
        markets: symbol -> bars to measure on, with the warm-up before the span.
        first: first date of the span.
        last: last date of it.

    Raises:
        EnsembleError: a member was trained on a day of the span, or the recipe makes no sense.
        StackingError, VoterRecordError: the span is too short.
        BarsError, HistoryError, CostError: the bars do not cover the span.
        BundleError, OSError: it cannot be written.
    """
    if out.exists():
        raise EnsembleError(f"{out} exists; choose another --out, an ensemble replaces nothing")
    unseen = first_unseen(members)
    if first < unseen:
        raise EnsembleError(
            f"the members' votes must be judged on days that none was trained on: those begin on {unseen}, found a "
            f"span from {first}"
        )
    _check_recipe(recipe, len(members))
    longest = max(members.values(), key=lambda bundle: bundle.manifest.state.history)
    dead_zone = recipe.dead_zone * usual_round_trip(longest, markets, first, last)
    trial = Trial(markets, first, last, recipe.horizon or common_horizon(members), dead_zone)
    records = {name: record_of(bundle, trial) for name, bundle in members.items()}
    spec = _spec(members, records, recipe, trial)
    if recipe.method == "stacking":
        policy = _policy(members, longest, spec)
        stack, rows = fit_stack(policy, trial, setting_of(longest))
        measured = {**spec.measured, "stacking_bars": rows}
        spec = EnsembleSpec(**{**dict(spec), "method": "stacking", "stack": stack, "measured": measured})
    policy = _policy(members, longest, spec)
    config = _config(out.name, spec, members)
    validation = {
        "log_return": ran(policy, trial, setting_of(longest)),
        "members": {name: one.log_return for name, one in records.items()},
    }
    manifest = _manifest(out.name, members, longest, spec, trial, config, validation)
    card = ensemble_card(manifest, {name: bundle.manifest for name, bundle in members.items()}, records)
    sources = {name: bundle.path for name, bundle in members.items()}
    written = write_ensemble(out, sources, manifest, _golden(policy, longest), config, card)
    return Built(written, records)


def default_consensus(count: int) -> int:
    """60 % of so many members, rounded up."""
    return -(-count * 3 // 5)


def _check_recipe(recipe: Recipe, count: int) -> None:
    weights = recipe.weights
    if weights is not None and len(weights) != count:
        raise EnsembleError(f"expected one weight per member, found {len(weights)} for {count}")
    if weights is not None and (not all(0 <= weight <= 1 for weight in weights) or abs(fsum(weights) - 1) > 1e-6):
        raise EnsembleError(
            f"the weights must lie between 0 and 1 and sum to 1, found {list(weights)}, which sum to {fsum(weights):g}"
        )
    voices = count if weights is None else sum(weight > 0 for weight in weights)
    consensus = recipe.consensus if recipe.consensus is not None else default_consensus(count)
    if not 1 <= consensus <= voices:
        raise EnsembleError(
            f"the consensus must be 1 to {voices}, the number of members with a weight above 0, found {consensus}; "
            "with it no order could ever be given"
        )
    if recipe.forgetting is not None and not 0 <= recipe.forgetting <= 1:
        raise EnsembleError(f"the forgetting factor must lie between 0 and 1, found {recipe.forgetting}")
    if recipe.horizon is not None and recipe.horizon < 1:
        raise EnsembleError(f"the horizon must be at least one bar, found {recipe.horizon}")
    if not 0 <= recipe.dead_zone < inf or not 0 < recipe.prior_votes < inf:
        raise EnsembleError(
            f"the dead zone must be 0 or more and the prior votes above 0, found {recipe.dead_zone} and "
            f"{recipe.prior_votes}"
        )


def _spec(
    members: Mapping[str, Bundle], records: Mapping[str, VoterRecord], recipe: Recipe, trial: Trial
) -> EnsembleSpec:
    """The spec with what was measured; of a stack, that of the vote on whose path it is fitted."""
    right, votes = sum(one.right for one in records.values()), sum(one.votes for one in records.values())
    pooled = (right + 1) / (votes + 2)
    accuracy = {
        name: (one.right + _POOLED_VOTES * pooled) / (one.votes + _POOLED_VOTES) for name, one in records.items()
    }
    total = fsum(accuracy.values())
    weights = recipe.weights or tuple(value / total for value in accuracy.values())
    chosen_on = [name for name, bundle in members.items() if _overlaps(span_of(bundle, "validation"), trial)]
    return EnsembleSpec(
        method="mean" if recipe.method == "mean" else "vote",
        members=tuple(
            Member(
                name=name,
                identity=bundle.identity,
                weight=weight,
                accuracy=accuracy[name],
                prior_votes=min(recipe.prior_votes, records[name].votes + _POOLED_VOTES),
            )
            for (name, bundle), weight in zip(members.items(), weights, strict=True)
        ),
        consensus=recipe.consensus or default_consensus(len(members)),
        horizon=trial.horizon,
        dead_zone=trial.dead_zone,
        forgetting=recipe.forgetting,
        measured={
            "first": trial.first.isoformat(),
            "last": trial.last.isoformat(),
            "symbols": list(trial.markets),
            "dead_zone_round_trips": recipe.dead_zone,
            "chosen_on_this_span": chosen_on,
            "records": {name: asdict(one) for name, one in records.items()},
        },
    )


def _overlaps(span: tuple[dt.date, dt.date], trial: Trial) -> bool:
    return span[0] <= trial.last and trial.first <= span[1]


def _policy(members: Mapping[str, Bundle], longest: Bundle, spec: EnsembleSpec) -> EnsemblePolicy:
    width = longest.manifest.state.width
    seats = [
        Seat(name, bundle.policy, width - bundle.manifest.state.width)
        for name, bundle in members.items()
        if isinstance(bundle.policy, OnnxPolicy)
    ]
    return EnsemblePolicy(seats, spec, longest.manifest.account)


def _golden(policy: EnsemblePolicy, longest: Bundle) -> Golden:
    """What the ensemble decides at first on the states of its longest member, where every member is clear."""
    golden, fresh = longest.golden, policy.begin()
    rows, decisions = [], []
    for row in range(len(golden.states)):
        decision = fresh.act(golden.states[row : row + 1], golden.masks[row : row + 1])
        best_two = np.sort(np.vstack([fresh.answers, decision.probabilities]), axis=1)[:, -2:]
        if (best_two[:, 1] - best_two[:, 0] > _CLEAR).all():
            rows.append(row)
            decisions.append(decision)
    count = len(golden.masks[0])
    return replace(
        golden,
        states=golden.states[rows],
        masks=golden.masks[rows],
        actions=np.array([decision.action for decision in decisions], np.int64),
        probabilities=np.array([one.probabilities for one in decisions], np.float32).reshape(-1, count),
    )


def _config(name: str, spec: EnsembleSpec, members: Mapping[str, Bundle]) -> str:
    """What it was built from; `data.references` as its members know it, for whoever loads bars for it."""
    plain = spec.model_dump(mode="json", exclude={"stack", "measured"})
    for one in plain["members"]:
        one["kind"] = members[one["name"]].manifest.kind
    data = (yaml.safe_load(next(iter(members.values())).config) or {}).get("data", {})
    references = {"references": data["references"]} if data.get("references") else {}
    return to_yaml({"name": name, "kind": "ensemble", **plain, "data": references})


def _manifest(
    name: str,
    members: Mapping[str, Bundle],
    longest: Bundle,
    spec: EnsembleSpec,
    trial: Trial,
    config: str,
    validation: dict[str, Any],
) -> Manifest:
    manifests = [bundle.manifest for bundle in members.values()]
    identities = "".join(bundle.identity for bundle in members.values())
    return longest.manifest.model_copy(
        update={
            "name": name,
            "kind": "ensemble",
            "symbols": tuple(dict.fromkeys(symbol for one in manifests for symbol in one.symbols)),
            "provenance": Provenance(
                config_hash=hashlib.sha256(config.encode()).hexdigest(),
                data_hash={symbol: bars.data_hash for symbol, bars in trial.markets.items()},
                spans=_spans(members, trial),
                seed=longest.manifest.provenance.seed,
                steps=sum(one.provenance.steps for one in manifests),
                git_commit=git_commit(),
                versions={package: version(package) for package in ("finsense", "numpy", "onnxruntime")},
                weights_hash=hashlib.sha256(identities.encode()).hexdigest(),
            ),
            "validation": validation,
            "alarms": {},
            "forecast": None,
            "ensemble": spec,
        }
    )


def _spans(members: Mapping[str, Bundle], trial: Trial) -> dict[str, tuple[str, str]]:
    """The days of any training, those after it on which a member or a weight was chosen, and what is left to test."""
    trains = [span_of(bundle, "train") for bundle in members.values()]
    validations = [*(span_of(bundle, "validation") for bundle in members.values()), (trial.first, trial.last)]
    trained = max(last for _, last in trains)
    chosen = max(last for _, last in validations)
    spans = {
        "train": (min(first for first, _ in trains), trained),
        "validation": (max(min(first for first, _ in validations), trained + _DAY), chosen),
    }
    tests = [span_of(bundle, "test") for bundle in members.values() if "test" in bundle.manifest.provenance.spans]
    if tests:
        first, last = max([chosen + _DAY, *(one for one, _ in tests)]), min(one for _, one in tests)
        spans |= {"test": (first, last)} if first <= last else {}
    return {name: (first.isoformat(), last.isoformat()) for name, (first, last) in spans.items()}
