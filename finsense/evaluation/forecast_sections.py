"""The judgement of a forecast as sections of the report, which the terminal shows too."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finsense.evaluation.block_bootstrap import Estimate
from finsense.evaluation.classification import CLASSES, Classification
from finsense.evaluation.persistence import persistence_figure
from finsense.evaluation.reliability import CALIBRATED, Bin, reliability_figure
from finsense.evaluation.tearsheet_section import Section, Table
from finsense.evaluation.wording import MISSING, decimal, grouped, percent, short_day_text

_SHARES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy (mean recall)",
    "hit_rate": "hit rate when acting",
}
_NUMBERS = {
    "mcc": "Matthews correlation",
    "auc_up": "AUC, up against the rest",
    "log_loss": "log-loss, nats (less is better)",
    "brier": "Brier score (less is better)",
}
_CURVES = {"top": "most probable class", "up": "up", "down": "down"}
_ACTS = ("sold", "held", "bought")
_BY_CLASS = ("precision", "recall", "f1")
_SHOWN_COLUMNS = 20


def forecast_sections(found: Classification, what: str) -> tuple[Section, ...]:
    """How good the forecast is, whether its probabilities mean what they say, and what was done about it.

    Args:
        found: the figures.
        what: the forecast and its labels, in a sentence.
    """
    return _figures(found, what), _calibration(found), _confusion(found)


def _figures(found: Classification, what: str) -> Section:
    counts = ", ".join(f"{grouped(count)} {name}" for name, count in found.counts.items())
    known = found.reference
    rows = [
        (words, *_with_interval(found.figures[name], percent_text), *_references(name, known.majority, known.chance))
        for names, percent_text in ((_SHARES, True), (_NUMBERS, False))
        for name, words in names.items()
    ]
    by_class = [
        (name, grouped(found.counts[name]), *(_in_brackets(found.figures[f"{figure}_{name}"]) for figure in _BY_CLASS))
        for name in CLASSES
    ]
    overlap = (
        f"Labels look up to {found.span_bars} bars ahead and so overlap: {grouped(found.rows)} bars hold about "
        f"{grouped(max(found.rows // found.span_bars, 1))} labels that share no bar. "
        if found.span_bars > 1
        else ""
    )
    drawn = f"Intervals are 95 %, from a moving-block bootstrap in blocks of {grouped(found.block)} bars."
    return Section(
        "Forecast of the direction",
        (
            what,
            f"{grouped(found.rows)} bars: {counts}. {overlap}{drawn}",
            "Majority: always names the class that is most frequent on these very bars, and states its frequency. "
            "Chance: names each class equally often.",
        ),
        (
            Table(("", "value", "95 %", "majority", "chance"), tuple(rows)),
            Table(("class", "bars", "precision", "recall", "F1"), tuple(by_class)),
        ),
    )


def _calibration(found: Classification) -> Section:
    errors = [
        (words, *_with_interval(found.figures[f"{CALIBRATED}_{name}"], True), _by_chance(found, name))
        for name, words in _CURVES.items()
    ]
    up, down = (found.reliability.bins[name] for name in ("up", "down"))
    longest = max(len(up), len(down))
    bins = [(str(place + 1), *_bin_texts(up, place), *_bin_texts(down, place)) for place in range(longest)]
    return Section(
        "Calibration",
        (
            "Expected calibration error: how far a stated probability lies from how often it came true, mean over ten "
            "bins of as many bars each. By chance: what 19 of 20 forecasts whose probabilities are right would stay "
            "below on bars like these.",
        ),
        (
            Table(("expected calibration error", "value", "95 %", "by chance"), tuple(errors)),
            Table(("bin", "up: said", "came", "bars", "down: said", "came", "bars"), tuple(bins)),
        ),
        (reliability_figure({"up": up, "down": down}),),
    )


def _confusion(found: Classification) -> Section:
    tables = [
        Table(
            (heading, *names, "bars"),
            tuple(
                (name, *(grouped(int(cell)) for cell in cells[place]), grouped(int(cells[place].sum())))
                for place, name in enumerate(CLASSES)
            ),
        )
        for heading, names, cells in (
            ("came, by what was done", _ACTS, found.acted),
            ("came, by what was most probable", CLASSES, found.confusion),
        )
    ]
    acted = int(found.acted[:, [0, 2]].sum())
    return Section(
        "What was done about it",
        (
            f"The policy acted on {grouped(acted)} of {grouped(found.rows)} bars ({percent(acted / found.rows)}), by "
            "its own rule, charges and masks; on the others it held. A hit is a purchase before an up or a sale before "
            "a down; a move too small to pay for the trade is a miss.",
        ),
        tuple(tables),
    )


def importance_section(found: Mapping[str, Any], shown: int = _SHOWN_COLUMNS) -> Section:
    """What each column was worth over the folds of the training span.

    Args:
        found: `forecast.importance` of a manifest.
        shown: rows of the table.
    """
    columns, folds = found["columns"], found["judged_folds"]
    rows = [
        (
            one["column"],
            decimal(1000 * one["value"], 2),
            decimal(1000 * (one["high"] - one["value"]), 2),
            decimal(one["chance"], 3),
            f"{min(one['ranks']):g} to {max(one['ranks']):g}",
            percent(one["in_front"], places=0),
            MISSING if one["gain_share"] is None else percent(one["gain_share"], places=1),
            ", ".join(word for word, true in (("stable", one["stable"]), ("used", one["chosen"])) if true),
        )
        for one in columns[:shown]
    ]
    return Section(
        "Importance of the columns over time",
        importance_notes(found),
        (
            Table(
                ("column", "saves", "\N{PLUS-MINUS SIGN} 95 %", "chance", "ranks", f"first {found['top']}", "gain", ""),
                tuple(rows),
            ),
        ),
        (
            persistence_figure(
                [one["column"] for one in columns],
                list(zip(*(one["ranks"] for one in columns), strict=True)),
                [short_day_text(np.datetime64(fold["first"])) for fold in folds],
            ),
        ),
    )


def importance_notes(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The findings of an analysis of columns in sentences."""
    folds = found["judged_folds"]
    lead = [fold["loss_without"] - fold["loss"] for fold in folds]
    stable = [one["column"] for one in found["columns"] if one["stable"]]
    better = sum(value > 0 for value in lead)
    return (
        f"Method {found['method']}; the model was fitted {len(folds)} times, each time judged on the part of the "
        "training span that was left out (purged). A column is worth what it saves of the loss there, in thousandths "
        "(nats of log-loss; of a forecast return, of its variance); below 0 it did harm. Gain: share of XGBoost's own "
        "gain on the rows it was fitted on, where noise gains too.",
        f"All columns together save {decimal(1000 * sum(lead) / len(lead), 1)} thousandths against a constant "
        f"forecast; the model beat it in {better} of {len(folds)} folds."
        + ("" if better > len(folds) / 2 else " It knows nothing that lasts, so the ranks mean little."),
        f"Order of the columns from fold to fold: Kendall's tau {decimal(found['tau'])} (1 the same, 0 none; by chance "
        f"within ±{decimal(found['tau_chance'])}). {percent(found['steady_rank_share'], places=0)} of the columns "
        f"move by at most a quarter of the places (by chance {percent(found['steady_rank_chance'], places=0)}).",
        (
            f"Stable: {', '.join(stable)} ({percent(found['stable_share'], places=0)} of the columns)."
            if stable
            else "No column is stable."
        )
        + f" Stable is what is among the first {found['top']} in {percent(found['share'], places=0)} of the folds and "
        "beyond chance; chance: how often the best of so many columns that tell nothing would look as good.",
    )


def _by_chance(found: Classification, curve: str) -> str:
    error = found.figures[f"{CALIBRATED}_{curve}"]
    return percent(error.high - error.value)


def _with_interval(one: Estimate, as_percent: bool) -> tuple[str, str]:
    value, low, high = (
        percent(number) if as_percent else decimal(number, 3) for number in (one.value, one.low, one.high)
    )
    return value, f"{low} to {high}" if math.isfinite(one.low) else MISSING


def _in_brackets(one: Estimate) -> str:
    return percent(one.value, places=1) + _reach(one.low, one.high)


def _reach(low: float, high: float) -> str:
    return f" ({100 * low:.0f} to {100 * high:.0f})" if math.isfinite(low) else ""


def _references(name: str, majority: Mapping[str, float], chance: Mapping[str, float]) -> tuple[str, str]:
    values = (majority[name], chance[name])
    first, second = (percent(one) if name in _SHARES else decimal(one, 3) for one in values)
    return first, second


def _bin_texts(bins: Sequence[Bin], place: int) -> tuple[str, str, str]:
    """What was said, what came with its interval, how many bars; blank where a curve has fewer bins."""
    if place >= len(bins):
        return "", "", ""
    one = bins[place]
    return percent(one.stated, places=1), percent(one.came, places=1) + _reach(one.low, one.high), grouped(one.rows)
