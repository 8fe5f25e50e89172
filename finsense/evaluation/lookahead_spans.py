"""Looks whether what judges a policy was seen in training: spans, the scaler's rows, sessions that come twice."""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import date
from itertools import pairwise

import numpy as np

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.evaluation.lookahead_graph import GraphError, graph_scaler
from finsense.evaluation.lookahead_market import Leak, Outcome, Span, Subject
from finsense.evaluation.lookahead_scaler import compare_scalers, first_traded, fitted_on
from finsense.market.bars import Bars, day_date, session_day
from finsense.model.bundle import GRAPH, MEMBERS, Bundle, load_bundle
from finsense.state.scaler import Scaler, ScalerError, fit_scaler

SPANS, SCALER, DUPLICATES = "spans", "scaler", "duplicates"
# From so many bars on, a session is known by its volumes alone, so that a rescaled copy is found too.
_LEAST_BARS, _LEAST_VOLUMES = 10, 5


def bundle_spans(bundle: Bundle) -> dict[str, Span]:
    """The spans that a bundle says it was trained, chosen and to be tested on."""
    spans = bundle.manifest.provenance.spans
    return {name: Span(date.fromisoformat(first), date.fromisoformat(last)) for name, (first, last) in spans.items()}


def check_spans(subject: Subject) -> Outcome:
    """Train, validation and test share no day, and the bundle has not been fitted or chosen on a day of the test."""
    names = ("train", "validation", "test")
    spans = [("the experiment", subject.spans)]
    if subject.bundle is not None:
        spans.append(("the bundle", bundle_spans(subject.bundle)))
    pairs = [
        (f"{owner}'s {one}", f"{owner}'s {other}", found[one], found[other])
        for owner, found in spans
        for place, one in enumerate(names)
        for other in names[place + 1 :]
        if one in found and other in found
    ]
    if subject.bundle is not None:
        trained = spans[1][1]
        pairs += [
            (f"the bundle's {name}", "the experiment's test", trained[name], subject.spans["test"])
            for name in ("train", "validation")
            if name in trained
        ]
    leaks = [leak for pair in pairs for leak in _overlap(subject, *pair)]
    return Outcome(len(pairs), "pairs", tuple(leaks))


def _overlap(subject: Subject, earlier: str, later: str, one: Span, other: Span) -> Iterator[Leak]:
    if one.last < other.first:
        return
    symbol, bars = next(iter(subject.markets.items()))
    shared = max(one.first, other.first)
    bar = int(np.searchsorted(bars.session_days, session_day(shared)))
    bar = bar if bar < len(bars) else -1
    what = "they share days" if other.last >= one.first else "the first lies after the second"
    detail = f"{earlier} is {one.first} to {one.last}, {later} {other.first} to {other.last}: {what}; move one of them"
    yield Leak(SPANS, symbol, later, "", bar, int(bars.time_ns[bar]) if bar >= 0 else 0, detail)


def check_scaler(subject: Subject) -> Outcome:
    """The scaler that is used against one fitted on the training rows alone, by bars that end with the training."""
    try:
        return _check_scaler(subject)
    except ScalerError as error:
        return Outcome(0, "scalers", unchecked=str(error))


def _check_scaler(subject: Subject) -> Outcome:
    markets, spec = subject.markets, subject.setting.state
    span = first_traded(markets, spec, subject.spans["train"])
    expected = fitted_on(markets, spec, span, until=span.last)
    found = {"the states built from all bars": fitted_on(markets, spec, span, until=None)}
    if subject.learner_rows is not None:
        rows = subject.learner_rows(span)
        found["the learner's environment"] = fit_scaler(rows, spec.history, len(ACCOUNT_FEATURES))
    others = _candidates(subject)
    leaks: list[Leak] = []
    for who, scaler in found.items():
        leaks += compare_scalers(expected, scaler, spec, markets, span, who, others)
    unchecked = ""
    for who, bundle in _with_scaler(subject.bundle).items():
        used = _bundle_scaler(subject, bundle)
        if isinstance(used, str):
            unchecked = used
        else:
            own, trained = bundle.manifest.state, bundle_spans(bundle).get("train", span)
            expected = fitted_on(markets, own, trained, until=trained.last)
            found[who] = used
            leaks += compare_scalers(expected, used, own, markets, trained, who, others)
    return Outcome(len(found), "scalers", tuple(leaks), unchecked)


def _with_scaler(bundle: Bundle | None) -> dict[str, Bundle]:
    """The bundle, or the members of an ensemble, each of which has a scaler of its own."""
    if bundle is None:
        return {}
    spec = bundle.manifest.ensemble
    if spec is None:
        return {"the bundle": bundle}
    return {f"the member {one.name}": load_bundle(bundle.path / MEMBERS / one.name) for one in spec.members}


def _bundle_scaler(subject: Subject, bundle: Bundle) -> Scaler | str:
    """The scaler in the bundle's graph, or why it cannot be held against these bars."""
    manifest = bundle.manifest
    wanted = subject.setting.state
    if manifest.state.model_copy(update={"history": wanted.history}).hash() != wanted.hash():
        return "the bundle was trained on another state than the experiment's"
    hashes = manifest.provenance.data_hash
    other = [symbol for symbol, bars in subject.markets.items() if hashes.get(symbol, bars.data_hash) != bars.data_hash]
    if other or set(hashes) - set(subject.markets):
        return f"the bundle was trained on other bars of {', '.join(other or sorted(hashes))} than these"
    try:
        used = graph_scaler((bundle.path / GRAPH).read_bytes(), manifest.state_width)
    except GraphError as error:
        return f"the bundle's graph cannot be read: {error}"
    return "the bundle's graph has no scaler" if used is None else used


def _candidates(subject: Subject) -> Mapping[str, tuple[Span, date | None]]:
    """What rows a scaler may have been fitted on by mistake."""
    spans = subject.spans
    last = min(bars.last_date for bars in subject.markets.values())
    first = max(bars.first_date for bars in subject.markets.values())
    named = {
        "train and validation": Span(spans["train"].first, spans["validation"].last),
        "train, validation and test": Span(spans["train"].first, spans["test"].last),
        "all rows of the data": Span(first, last),
        "validation": spans["validation"],
        "test": spans["test"],
    }
    return {
        name: (first_traded(subject.markets, subject.setting.state, span), None)
        for name, span in named.items()
        if span.last <= last
    }


def check_duplicates(subject: Subject) -> Outcome:
    """No session of the test or the validation is a copy of one that was seen before, of whatever symbol."""
    seen: dict[bytes, tuple[str, date]] = {}
    leaks: list[Leak] = []
    count = 0
    for span in ("train", "validation", "test"):
        fresh: dict[bytes, tuple[str, date]] = {}
        for symbol, bars in subject.markets.items():
            for day, bar, key in _sessions(bars, subject.spans[span]):
                count += 1
                fresh.setdefault(key, (symbol, day))
                if key in seen:
                    other, before = seen[key]
                    detail = (
                        f"its bars of {day} ({span}) are those of {other} on {before}; drop one of the two sessions"
                    )
                    leaks.append(Leak(DUPLICATES, symbol, "data", "session", bar, int(bars.time_ns[bar]), detail))
        seen |= fresh
    return Outcome(count, "sessions", tuple(leaks))


def _sessions(bars: Bars, span: Span) -> Iterator[tuple[date, int, bytes]]:
    """Date, first bar and what a session of a span is known by; those in which nothing happens are left out."""
    offsets = bars.session_offsets
    for start, stop in pairwise(offsets.tolist()):
        day = day_date(bars.session_days[start])
        if not span.first <= day <= span.last:
            continue
        prices = np.stack([getattr(bars, name)[start:stop] for name in ("open", "high", "low", "close")])
        volume = bars.volume[start:stop]
        if np.ptp(prices) == 0 or (stop - start == 1 and volume[0] == 0):
            continue
        rich = stop - start >= _LEAST_BARS and len(np.unique(volume)) >= _LEAST_VOLUMES
        content = volume.tobytes() if rich else prices.tobytes() + volume.tobytes()
        yield day, start, hashlib.sha256(content).digest()
