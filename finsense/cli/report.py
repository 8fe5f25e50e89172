"""Turns the results of a run into the HTML report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.backtest import Report, Setting, charge_totals, days_of
from finsense.evaluation.tearsheet import Contender, TearsheetData, write_report
from finsense.evaluation.tearsheet_section import Section


def save_report(
    path: Path,
    report: Report,
    baselines: Sequence[Report],
    setting: Setting,
    *,
    interval: str,
    bundle_id: str,
    config: str,
    parity: Mapping[str, str] | None = None,
    facts: Mapping[str, str] | None = None,
    sections: Sequence[Section] = (),
) -> Path:
    """Write the report of a judged policy beside its baselines; returns the path."""
    trace = report.trace
    filled, fills = trace.all_fills()
    names = setting.account.action_names
    counts = np.bincount(trace.actions, minlength=len(names))
    return write_report(
        path,
        TearsheetData(
            symbol=report.symbol,
            interval=interval,
            time_ns=trace.time_ns,
            day=days_of(trace),
            balance_paise=setting.account.balance_paise,
            policy=Contender(report.name, trace.equity_paise, report.performance),
            baselines=tuple(
                Contender(one.name, _until(one.trace.equity_paise, len(trace.time_ns)), one.performance)
                for one in baselines
            ),
            bundle_id=bundle_id,
            close_paise=trace.close_paise,
            fill_bar=filled,
            fill_quantity=fills[:, 0],
            fill_price_paise=fills[:, 1],
            trades=report.trades,
            charge_lines=charge_totals(trace, setting),
            actions={name: int(count) for name, count in zip(names, counts, strict=True)},
            parity=parity,
            config_text=config,
            facts=dict(facts or {}),
            sections=tuple(sections),
        ),
    )


def _until(equity_paise: NDArray[np.int64], bars: int) -> NDArray[np.int64]:
    """The curve over all bars of the report; one that was ruined stopped early and stays where it ended."""
    missing = max(bars - len(equity_paise), 0)
    return np.pad(equity_paise[:bars], (0, missing), mode="edge")
