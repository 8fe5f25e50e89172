"""Law: the report is one file that needs nothing else, escapes what it is given, and shows the true figures."""

import datetime as dt
import html
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from finsense.evaluation.charts import Chart, decimate, log_ticks, nice_ticks, padded
from finsense.evaluation.figures import time_ticks
from finsense.evaluation.metrics import performance
from finsense.evaluation.tearsheet import Contender, TearsheetData, TearsheetError, render, verdict, write_report
from finsense.evaluation.trades import round_trips
from finsense.evaluation.wording import decimal, grouped, ist, percent, rupees, whole_rupees

MALICIOUS = "\"'><script>alert(1)</script>&{{ 7*7 }}\x00\x1b"
BALANCE = 5_000_000
BAR_NS = 300_000_000_000
FIRST_NS = int(dt.datetime(2023, 12, 1, 3, 45, tzinfo=dt.UTC).timestamp()) * 1_000_000_000


def market(sessions: int, bars: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Times, session days and closes in paise of a seeded walk on weekdays."""
    days = [day for day in range(2 * sessions) if (FIRST_NS // 86_400_000_000_000 + day + 3) % 7 < 5][:sessions]
    day = np.repeat(np.array(days, dtype=np.int64), bars)
    time_ns = FIRST_NS + day * 86_400_000_000_000 + np.tile(np.arange(bars, dtype=np.int64), sessions) * BAR_NS
    steps = np.random.default_rng(seed).normal(0.00005, 0.0012, sessions * bars)
    return time_ns, day, np.round(240_000 * np.exp(np.cumsum(steps))).astype(np.int64)


def account(data: dict[str, Any], position: NDArray[np.int64]) -> dict[str, Any]:
    """Books of an account that holds these positions, filled at the bar's close with a charge of 3 bps."""
    close = data["close_paise"]
    change = np.diff(position, prepend=0)
    bar = np.flatnonzero(change)
    charges = np.abs(change[bar]) * close[bar] * 3 // 10_000
    paid = np.zeros(len(close), dtype=np.int64)
    paid[bar] = charges
    cash = BALANCE - np.cumsum(change * close) - np.cumsum(paid)
    fills = {
        "fill_bar": bar,
        "fill_quantity": change[bar],
        "fill_price_paise": close[bar],
        "fill_charges_paise": charges,
    }
    return {**data, **fills, "position": position, "equity_paise": cash + position * close, "balance_paise": BALANCE}


def contender(name: str, books: dict[str, Any]) -> Contender:
    return Contender(name, books["equity_paise"], performance(**books))


def report(sessions: int = 21, bars: int = 75, *, symbol: str = "RELIANCE", seed: int = 4) -> TearsheetData:
    """A whole report on simulated prices; the policy peeks a little, so that it has something to show."""
    time_ns, day, close = market(sessions, bars, seed)
    data = {"time_ns": time_ns, "day": day, "close_paise": close}
    generator = np.random.default_rng(seed)
    ahead = np.concatenate((close[12:], np.full(min(12, len(close)), close[-1])))[-len(close) :]
    wish = np.where((ahead > close) ^ (generator.random(len(close)) > 0.75), 15, 0)
    mine = account(data, np.repeat(wish[::9], 9)[: len(close)].astype(np.int64))
    names = ("time_ns", "close_paise", "fill_bar", "fill_quantity", "fill_price_paise", "fill_charges_paise")
    average = np.convolve(close, np.ones(30) / 30)[: len(close)]
    paid = int(mine["fill_charges_paise"].sum())
    lines = {
        "brokerage": paid // 2,
        "stt": paid // 4,
        "exchange_txn": paid // 16,
        "ipft": 3,
        "sebi": 40,
        "stamp_duty": 90,
    }
    return TearsheetData(
        symbol=symbol,
        interval="5m",
        time_ns=time_ns,
        day=day,
        balance_paise=BALANCE,
        policy=contender("PPO", mine),
        baselines=(
            contender("always flat", account(data, np.zeros(len(close), dtype=np.int64))),
            contender("buy and hold", account(data, np.full(len(close), 20, dtype=np.int64))),
            contender(
                "random legal", account(data, np.repeat(generator.integers(0, 2, len(close)) * 15, 7)[: len(close)])
            ),
            contender("SMA cross", account(data, np.where(close > average, 15, 0).astype(np.int64))),
        ),
        bundle_id="ppo-reliance-5m-3f9c1a72",
        close_paise=close,
        fill_bar=mine["fill_bar"],
        fill_quantity=mine["fill_quantity"],
        fill_price_paise=mine["fill_price_paise"],
        trades=round_trips(**{name: mine[name] for name in names}),
        charge_lines={**lines, "gst": paid - sum(lines.values())},
        actions={"BUY": 412, "HOLD": 860, "SELL": 303},
        parity={
            driver: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" for driver in ("env", "vector")
        },
        config_text="agent:\n  name: ppo\n  ent_coef: 0.01\n",
        facts={"Charges": "NSE/Zerodha intraday, schedule of 2023-04-01"},
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render(report())


def drawings(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_the_file_is_whole_small_and_needs_nothing_else(tmp_path: Path) -> None:
    path = write_report(tmp_path / "new" / "report.html", report())
    text = path.read_text(encoding="utf-8")
    assert 20_000 < len(text.encode()) < 1_000_000
    assert "://" not in text
    assert not re.findall(r"<(?:link|img|iframe|object|embed|base)\b|@import|url\(|\ssrc=|\shref=", text)
    assert "default-src 'none'" in text
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_a_long_history_stays_small() -> None:
    text = render(report(sessions=500))
    assert len(text.encode()) < 1_000_000
    assert "Return of each month" in text
    points = max(path.get("d", "").count("L") for svg in drawings(text) for path in svg.iter("path"))
    assert 500 < points <= 2_000


def test_every_drawing_is_well_formed_and_named(page: str) -> None:
    names = [svg.get("aria-label") for svg in drawings(page)]
    assert len(names) == 8
    assert all(names)
    for svg in drawings(page):
        numbers = [
            value for shape in svg.iter() for name, value in shape.attrib.items() if name not in ("class", "aria-label")
        ]
        assert not [value for value in numbers if "nan" in value or "inf" in value]


def test_the_report_shows_the_figures_of_the_performance(page: str) -> None:
    data = report()
    embedded = re.search(r'<script type="application/json" id="performance">(.*?)</script>', page)
    assert embedded is not None
    numbers = json.loads(embedded[1])
    assert numbers == {one.name: one.performance.as_dict() for one in data.contenders}
    plain = html.unescape(page)
    rows = dict(re.findall(r'<tr><th scope="row">([^<]*)</th><td>([^<]*)</td>', plain))
    mine = data.policy.performance
    assert rows["Final equity"] == rupees(mine.final_equity_paise)
    assert rows["Sharpe"] == f"{mine.sharpe:.2f}".replace("-", "\N{MINUS SIGN}")
    assert rows["Total return"].lstrip("+\N{MINUS SIGN}") == f"{abs(mine.total_return):.2%}"
    assert rows["Closed trades"] == str(mine.trades)
    assert rows["Charges"] == rupees(mine.charges_paise)
    assert plain.count(rupees(mine.net_paise, signed=True)) >= 2  # the table and the end of the waterfall
    assert data.trades is not None
    assert plain.count('class="won"') + plain.count('class="lost"') == min(50, len(data.trades))


def test_hostile_names_stay_text() -> None:
    data = report(sessions=3, symbol=MALICIOUS)
    hostile = replace(
        data,
        policy=replace(data.policy, name=MALICIOUS),
        bundle_id=MALICIOUS,
        actions={MALICIOUS: 3},
        charge_lines={MALICIOUS: data.policy.performance.charges_paise},
        parity={MALICIOUS: MALICIOUS},
        config_text="</pre>" + MALICIOUS,
        facts={MALICIOUS: MALICIOUS},
        verdict=MALICIOUS,
    )
    text = render(hostile)
    assert "<script>alert" not in text
    assert "</pre><" not in text.replace("</pre>\n", "")
    assert "{{ 7*7 }}" in text
    assert text.count("<script") == 2
    assert len(drawings(text)) == 8
    for hover in re.findall(r"data-hover='([^']*)'", text):
        assert json.loads(hover)["series"]


def test_missing_parts_are_left_out() -> None:
    data = report(sessions=1, bars=2)
    bare = TearsheetData(
        symbol="X",
        interval="1d",
        time_ns=data.time_ns,
        day=data.day,
        balance_paise=BALANCE,
        policy=data.policy,
    )
    text = render(bare)
    for part in ("Price and fills", "Last trades", "From gross to net", "Actions", "Parity", "Configuration", "bundle"):
        assert f"<h2>{part}</h2>" not in text
    assert "there is no baseline" in text
    assert len(drawings(text)) == 3


def test_the_report_refuses_to_contradict_itself() -> None:
    data = report(sessions=2)
    with pytest.raises(TearsheetError, match="charge lines sum to 1 paise"):
        replace(data, charge_lines={"stt": 1})
    with pytest.raises(TearsheetError, match="one value per bar"):
        replace(data, day=data.day[1:])
    with pytest.raises(TearsheetError, match="different names"):
        replace(data, baselines=(data.policy,))


def test_a_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    (tmp_path / "report.html.part").mkdir()
    with pytest.raises(OSError, match="part"):
        write_report(target, report(sessions=1))
    assert target.read_text() == "old"


def test_the_verdict_names_the_best_baseline_and_tells_chance() -> None:
    data = report()
    by_return = sorted(data.baselines, key=lambda one: one.performance.total_return)
    spoken = verdict(data)
    assert spoken.standing == "ahead"
    assert f"the best baseline, {by_return[-1].name}, returned" in spoken.text
    assert "over 21 sessions" in spoken.text
    worst = replace(by_return[0], name="worst")
    behind = verdict(replace(data, policy=worst, baselines=(data.policy,), charge_lines=None))
    assert behind.standing == "behind"
    level = verdict(replace(data, baselines=(replace(data.policy, name="twin"),)))
    assert level.standing == "level"
    assert " t = " not in level.text
    assert verdict(replace(data, verdict="Gate passed.")).text == "Gate passed."


def test_parity_says_when_drivers_differ(page: str) -> None:
    assert "to the bit" in page
    differs = render(replace(report(sessions=1), parity={"env": "a", "vector": "b"}))
    assert "do not trust this run" in differs
    assert "to the bit" not in differs


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=400), st.integers(1, 60))
def test_decimation_keeps_the_extremes_and_the_ends(values: list[int], columns: int) -> None:
    series = np.array(values)
    kept = decimate(series, columns)
    assert len(kept) <= 2 * columns + 2
    assert (np.diff(kept) > 0).all()
    assert (kept[0], kept[-1]) == (0, len(values) - 1)
    assert (series[kept].min(), series[kept].max()) == (series.min(), series.max())


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    high = low + width
    ticks = nice_ticks(low, high)
    slack = width * 1e-6
    assert 1 <= len(ticks) <= 8
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    if low > 0:
        assert all(low - slack <= tick <= high + slack for tick in log_ticks(low, high))


def test_a_range_without_width_is_refused_and_never_made() -> None:
    with pytest.raises(ValueError, match="low < high"):
        nice_ticks(1.0, 1.0)
    for values in ([0.0], [5.0, 5.0], [-2.0, 0.0]):
        for zero in (False, True):
            low, high = padded(np.array(values), zero=zero)
            assert low < high
    assert padded(np.array([1.0, 2.0]), zero=True)[0] == 0.0


def test_a_log_axis_spaces_equal_ratios_equally() -> None:
    chart = Chart("", x=(0, 1), y=(1.0, 100.0), log=True)
    assert chart.y_at(1.0) - chart.y_at(10.0) == pytest.approx(chart.y_at(10.0) - chart.y_at(100.0))


def test_time_ticks_name_what_begins_there() -> None:
    time_ns, _, _ = market(3, 75, 1)
    times = ist(time_ns)
    assert next(label for _, label in time_ticks(times)) == "1 Dec 2023 09:15"
    long = ist(FIRST_NS + np.arange(3000, dtype=np.int64) * 86_400_000_000_000)
    assert [label for _, label in time_ticks(long)][:2] == ["2024", "2025"]
    half_a_year = time_ticks(long[:200])
    assert (half_a_year[0], len(half_a_year)) == ((31.0, "Jan 2024"), 6)


@pytest.mark.parametrize(
    ("paise", "text"),
    [
        (0, "₹0.00"),
        (5, "₹0.05"),
        (99_999, "₹999.99"),
        (100_000, "₹1,000.00"),
        (-12_345_678_901, "\N{MINUS SIGN}₹12,34,56,789.01"),
        (1_000_000_000, "₹1,00,00,000.00"),
    ],
)
def test_rupees_have_lakh_and_crore_commas(paise: int, text: str) -> None:
    assert rupees(paise) == text


def test_figures_read_as_people_write_them() -> None:
    assert grouped(1234567) == "12,34,567"
    assert rupees(150, signed=True) == "+₹1.50"
    assert (whole_rupees(2.5), whole_rupees(-150000.4)) == ("₹2.50", "\N{MINUS SIGN}₹1,50,000")
    assert (percent(0.12345), percent(-0.5, places=0), percent(-0.000001)) == ("12.35%", "\N{MINUS SIGN}50%", "0.00%")
    assert (percent(0.01, signed=True), percent(float("nan"))) == ("+1.00%", "\N{EN DASH}")
    assert (decimal(float("inf")), decimal(float("nan")), decimal(-0.001)) == ("∞", "\N{EN DASH}", "0.00")
