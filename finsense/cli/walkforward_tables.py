"""A walk-forward as Markdown: the folds, the agent beside the baselines, how sure the difference is, the decay."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finsense.evaluation.walkforward_report import AGENT, FLAT
from finsense.evaluation.wording import MISSING, decimal, percent

_PARTS = {"1": "With the charges of the config", "2": "With charges doubled"}
_WORDS = {
    "1": "",
    "2": "The same policies, trained under the config's charges, judged again while every charge is twice as high.\n",
}


def walkforward_markdown(found: Mapping[str, Any]) -> str:
    """The document of `finsense.agents.walkforward.report`, for a person."""
    seeds, finished = len(found["seeds"]), len(found["finished_seeds"])
    lines = [f"# Walk-forward of {found['name']}\n"]
    lines += [f"{len(found['folds'])} folds, {found['window']} training span, {finished} of {seeds} seeds finished.\n"]
    lines += _table(
        ("fold", "train", "validation", "test"),
        (
            (str(number), *(f"{fold[name][0]} to {fold[name][1]}" for name in ("train", "validation", "test")))
            for number, fold in enumerate(found["folds"], 1)
        ),
    )
    if found["unfinished"]:
        lines += ["Not finished, and not in any figure:\n"]
        lines += [f"- {name}{f': {why}' if why else ''}" for name, why in found["unfinished"].items()] + [""]
    if "charges" in found:
        for level, judged in found["charges"].items():
            lines += [f"## {_PARTS[level]}\n", *([_WORDS[level]] if _WORDS[level] else [])]
            lines += _side_by_side(judged, finished)
        lines += ["## By symbol\n", *_symbols(found["charges"]["1"])]
        lines += ["## By fold\n", *_folds(found["charges"]["1"], found["decay"])]
        lines += ["## How this was counted\n", *_counted(found)]
    return "\n".join(lines).rstrip() + "\n"


def _side_by_side(judged: Mapping[str, Any], seeds: int) -> list[str]:
    names = ("policy", "mean a day", "total", "Sharpe", "drawdown", "trades", "turnover a day", "charges", "days won")
    lines = _table(
        names,
        (
            (
                f"**agent**, {seeds} seeds" if name == AGENT else name,
                _small(one["mean_daily_return"]),
                percent(_number(one["total_return"]), signed=True),
                decimal(_number(one["sharpe"])),
                percent(_number(one["max_drawdown"])),
                decimal(_number(one["trades"]), 0),
                decimal(_number(one["turnover"])),
                percent(_number(one["charges"])),
                percent(_number(one["positive_share"]), places=0),
            )
            for name, one in judged["policies"].items()
        ),
    )
    lines += _table(
        ("mean a day, agent less", "mean", "95 % over sessions", "interquartile mean", "95 % over seeds"),
        (
            (
                name,
                _small(one["mean"]),
                _interval(one["sessions"]),
                _small(one["interquartile_mean"]),
                _interval(one["seeds"]),
            )
            for name, one in judged["differences"].items()
        ),
    )
    return [*lines, f"**{judged['verdict'][0].upper()}{judged['verdict'][1:]}.**\n"]


def _symbols(judged: Mapping[str, Any]) -> list[str]:
    others = [name for name in judged["policies"] if name not in (AGENT, FLAT)]
    lines = _table(
        (
            "symbol",
            "agent, mean a day",
            "95 % over sessions",
            "agent, total",
            "trades",
            *(f"{name}" for name in others),
        ),
        (
            (
                symbol,
                _small(one["policies"][AGENT]["mean_daily_return"]),
                _interval(one["differences"][FLAT]["sessions"]),
                percent(_number(one["policies"][AGENT]["total_return"]), signed=True),
                decimal(_number(one["policies"][AGENT]["trades"]), 0),
                *(percent(_number(one["policies"][name]["total_return"]), signed=True) for name in others),
            )
            for symbol, one in judged["symbols"].items()
        ),
    )
    count = len(judged["symbols"])
    return [*lines, f"Totals, config's charges. Of {count} such intervals one in twenty misses 0 by chance alone.\n"]


def _folds(judged: Mapping[str, Any], decay: Mapping[str, Any]) -> list[str]:
    others = [name for name in judged["policies"] if name != AGENT]
    lines = _table(
        ("fold", "agent, mean a day", "95 % over seeds", *others, "validation score", "test score", "rank correlation"),
        (
            (
                str(number),
                _small(fold[AGENT]),
                _interval(fold[f"{AGENT}_seeds"]),
                *(_small(fold[name]) for name in others),
                _small(scores["validation"]),
                _small(scores["test"]),
                decimal(_number(scores["rank_correlation"])),
            )
            for number, (fold, scores) in enumerate(zip(judged["folds"], decay["folds"], strict=True), 1)
        ),
    )
    mean = decimal(_number(decay["rank_correlation"]))
    return [
        *lines,
        "Scores are the log return per session, mean over symbols, by which checkpoints are chosen. The rank "
        f"correlation (Spearman) says whether seeds that validate better also test better; mean over folds: {mean}.\n",
    ]


def _counted(found: Mapping[str, Any]) -> list[str]:
    trials, bootstrap = found["trials"], found["bootstrap"]
    return [
        f"- {trials['trainings']} trainings of {trials['configurations']} configuration; in each, "
        f"{trials['checkpoints_per_training']} checkpoints were compared on the validation span, and the test span "
        f"was judged {trials['test_judgements_per_training']} time, with the one that validation chose.",
        "- All symbols together are one account: their equities are added up. The test spans follow each other; each "
        "begins flat with the starting capital; total and drawdown reinvest from span to span.",
        "- The agent's figures are interquartile means over seeds. 95 % over seeds: bootstrap over trainings on the "
        "same market. 95 % over sessions: stationary block bootstrap of the mean over seeds, blocks of "
        f"{bootstrap['block_sessions']} sessions on average, {bootstrap['resamples']:,} draws.",
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = "|".join(["---", *(["---:"] * (len(header) - 1))])
    return [f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _interval(found: Sequence[float] | None) -> str:
    return MISSING if found is None else f"{_small(found[0])} to {_small(found[1])}"


def _small(fraction: float) -> str:
    """A return of a day: hundredths of a percent count."""
    return percent(fraction, places=3, signed=True)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
