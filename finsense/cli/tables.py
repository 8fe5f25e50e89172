"""Reports as tables for a person."""

from rich.console import Console
from rich.table import Table

from finsense.evaluation.backtest import Report
from finsense.evaluation.joint import JointReport
from finsense.evaluation.metrics import Performance
from finsense.evaluation.tearsheet_section import Section
from finsense.evaluation.wording import decimal, percent, whole_rupees


def show_reports(console: Console, reports: list[Report]) -> None:
    """The policies side by side, the judged one first."""
    _show_figures(console, reports[0].symbol, {report.name: report.performance for report in reports}, "bars")


def show_joint(console: Console, reports: list[JointReport]) -> None:
    """The policies side by side, each with all its symbols on one account, the judged one first; then its symbols."""
    judged, title = reports[0], f"{', '.join(reports[0].traces)} on one account"
    _show_figures(console, title, {report.name: report.performance for report in reports}, "moments")
    table = Table(title=f"{judged.name} by symbol", padding=(0, 1), box=None)
    for heading in ("", "bars", "orders", "trades", "charges", "net"):
        table.add_column(heading, justify="right" if heading else "left")
    for symbol, one in judged.summary()["symbols"].items():
        money = (whole_rupees(float(one[name])) for name in ("charges_rupees", "net_rupees"))
        table.add_row(symbol, *(str(one[name]) for name in ("bars", "orders", "trades")), *money)
    console.print(table)
    for reason, count in judged.dropped.items():
        console.print(f"{count} choices came too late at their bar: {reason}", highlight=False, markup=False)


def _show_figures(console: Console, title: str, performances: dict[str, Performance], steps: str) -> None:
    table = Table(title=f"{title}: after charges, under the same rules and fills", padding=(0, 1), box=None)
    table.add_column("")
    for name in performances:
        table.add_column(name, justify="right", overflow="fold")
    figures = list(performances.values())
    rows = {
        "final equity": [whole_rupees(p.final_equity_paise / 100) for p in figures],
        "total return": [percent(p.total_return, signed=True) for p in figures],
        "Sharpe, annual": [decimal(p.sharpe) for p in figures],
        "max drawdown": [percent(p.max_drawdown) for p in figures],
        "trades": [str(p.trades) for p in figures],
        "win rate": [percent(p.win_rate, places=0) for p in figures],
        "exposure": [percent(p.exposure, places=0) for p in figures],
        "charges": [whole_rupees(p.charges_paise / 100) for p in figures],
    }
    for label, values in rows.items():
        table.add_row(label, *values)
    console.print(table)
    first = figures[0]
    console.print(
        f"{first.bars} {steps}, {first.sessions} sessions; annual figures from session returns, "
        f"{first.sessions_per_year} sessions a year"
    )
    longest = max(p.bars for p in figures)
    for name, one in performances.items():
        if one.bars < longest:
            console.print(f"{name} was ruined after {one.bars} {steps} and stopped there")


def show_section(console: Console, section: Section) -> None:
    """Words and tables of a section; its figures are for the report."""
    console.print(f"[bold]{section.title}[/]")
    for note in section.notes:
        console.print(note, highlight=False, markup=False)
    for one in section.tables:
        table = Table(box=None, padding=(0, 1))
        table.add_column(one.header[0], overflow="fold")
        for heading in one.header[1:]:
            table.add_column(heading, justify="right")
        for row in one.rows:
            table.add_row(*row)
        console.print(table)
    console.print()
