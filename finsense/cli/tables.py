"""Reports as tables for a person."""

from rich.console import Console
from rich.table import Table

from finsense.evaluation.backtest import Report
from finsense.evaluation.tearsheet_section import Section
from finsense.evaluation.wording import decimal, percent, whole_rupees


def show_reports(console: Console, reports: list[Report]) -> None:
    """The policies side by side, the judged one first."""
    table = Table(title=f"{reports[0].symbol}: after charges, under the same rules and fills", padding=(0, 1), box=None)
    table.add_column("")
    for report in reports:
        table.add_column(report.name, justify="right", overflow="fold")
    figures = [report.performance for report in reports]
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
        f"{first.bars} bars, {first.sessions} sessions; annual figures from session returns, "
        f"{first.sessions_per_year} sessions a year"
    )
    longest = max(p.bars for p in figures)
    for report in reports:
        if report.performance.bars < longest:
            console.print(f"{report.name} was ruined after {report.performance.bars} bars and stopped there")


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
