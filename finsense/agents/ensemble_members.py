"""The members of an ensemble: whether they go together, and on which days they may be judged."""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finsense.model.bundle import Bundle, load_bundle
from finsense.model.manifest import Manifest

_DAY = dt.timedelta(days=1)
# Where no member was trained on a horizon: half an hour of 5-minute bars.
_HORIZON = 6


class EnsembleError(ValueError):
    """Bundles that cannot decide together, or a span on which they may not be measured."""


def load_members(paths: Sequence[Path]) -> dict[str, Bundle]:
    """Name -> bundle of members that can decide together.

    Raises:
        BundleError: one does not verify.
        EnsembleError: there are fewer than two, one comes twice or is an ensemble, or they were trained differently.
    """
    if len(paths) < 2:
        raise EnsembleError(f"an ensemble needs at least two bundles, found {len(paths)}")
    members: dict[str, Bundle] = {}
    for path in paths:
        bundle = load_bundle(path)
        if bundle.manifest.ensemble is not None:
            raise EnsembleError(f"{path} is an ensemble; name its members instead, they lie in {path / 'members'}")
        twin = next((one for one in members.values() if one.identity == bundle.identity), None)
        if twin is not None:
            raise EnsembleError(f"{path} is the same bundle as {twin.path}; each member has one voice")
        name, count = bundle.manifest.name, 2
        while name.casefold() in {known.casefold() for known in members}:
            name, count = f"{bundle.manifest.name}_{count}", count + 1
        members[name] = bundle
    _refuse_differences(members)
    return members


def first_unseen(members: Mapping[str, Bundle]) -> dt.date:
    """The day after the last one that any member was trained on.

    Raises:
        EnsembleError: a member does not say on what it was trained.
    """
    return max(span_of(bundle, "train")[1] for bundle in members.values()) + _DAY


def default_span(members: Mapping[str, Bundle]) -> tuple[dt.date, dt.date]:
    """The dates that lie after every member's training and in every member's validation span.

    Raises:
        EnsembleError: there are none.
    """
    validations = [span_of(bundle, "validation") for bundle in members.values()]
    first = max([first_unseen(members), *(span[0] for span in validations)])
    last = min(span[1] for span in validations)
    if first > last:
        shown = ", ".join(f"{name} {one[0]} to {one[1]}" for name, one in zip(members, validations, strict=True))
        raise EnsembleError(
            f"no day from {first_unseen(members)} on, after the last training, lies in every member's validation span "
            f"({shown}); give --from and --to, or --data"
        )
    return first, last


def common_horizon(members: Mapping[str, Bundle]) -> int:
    """The horizon of the members' labels, bars; 6 where none has labels.

    Raises:
        EnsembleError: they differ.
    """
    labels = {name: bundle.manifest.forecast for name, bundle in members.items()}
    horizons = {name: int(one.label["horizon"]) for name, one in labels.items() if one is not None}
    if len(set(horizons.values())) > 1:
        shown = ", ".join(f"{name} {horizon}" for name, horizon in horizons.items())
        raise EnsembleError(f"the members were trained for different horizons ({shown}); choose one with --horizon")
    return next(iter(horizons.values()), _HORIZON)


def _refuse_differences(members: Mapping[str, Bundle]) -> None:
    """Everything that one state builder pass and one account must have in common, all differences at once."""
    names = list(members)
    first, *others = (_terms(bundle.manifest) for bundle in members.values())
    found = [
        f"{key}: {names[0]} has {first[key]}, {name} has {terms[key]}"
        for name, terms in zip(names[1:], others, strict=True)
        for key in first
        if terms[key] != first[key]
    ]
    if found:
        raise EnsembleError(
            "the members must see the same state (but for its history) and act under the same rules; they differ in\n  "
            + "\n  ".join(found)
        )


def _terms(manifest: Manifest) -> dict[str, Any]:
    plain = manifest.model_dump(mode="json", include={"interval", "derivatives", "account", "costs"})
    account = {f"account.{key}": value for key, value in plain.pop("account").items()}
    costs = {f"costs.{key}": value for key, value in plain.pop("costs").items()}
    return {
        **plain,
        "features": list(manifest.columns),
        "state": manifest.state.model_copy(update={"history": 1, "warmup": 1}).hash()[:12],
        "warmup": manifest.state.warmup,
        "actions": list(manifest.actions),
        "sessions_per_year": manifest.sessions_per_year,
        **account,
        **costs,
    }


def span_of(bundle: Bundle, name: str) -> tuple[dt.date, dt.date]:
    """First and last date of the `train`, `validation` or `test` span of a bundle.

    Raises:
        EnsembleError: it does not say.
    """
    span = bundle.manifest.provenance.spans.get(name)
    if span is None:
        raise EnsembleError(f"{bundle.path} does not say what its {name} span was, so it cannot be judged outside it")
    return dt.date.fromisoformat(span[0]), dt.date.fromisoformat(span[1])
