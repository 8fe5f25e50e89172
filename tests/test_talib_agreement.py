"""What the page says of TA-Lib is what is measured, and reading it needs no TA-Lib."""

import sys

import pytest
import talib
import yaml
from talib_agreement import COMPARED, FILE, measure, simulated_markets

from finsense.cli.features import markdown
from finsense.state.registry import INDICATORS

WRITTEN = yaml.safe_load(FILE.read_text())
# Below this a difference is one rounding, which the next change of an expression may add or take away.
ROUNDING = 1e-15


def test_the_file_knows_every_comparison_and_what_it_was_measured_with() -> None:
    assert WRITTEN["talib"] == talib.__version__
    assert WRITTEN["bars"] == sum(len(market.rows) for market in simulated_markets())
    assert set(WRITTEN["indicators"]) == set(COMPARED) <= set(INDICATORS)


@pytest.mark.parametrize("name", COMPARED)
def test_what_is_written_is_what_is_measured(name: str) -> None:
    written, found = WRITTEN["indicators"][name], measure(name)
    assert tuple(written["functions"]) == found.functions
    assert found.difference <= 1e-9
    # Another processor rounds other last bits, so it is the order of magnitude that must hold.
    assert 0.1 <= max(found.difference, ROUNDING) / max(written["difference"], ROUNDING) <= 10


def test_the_page_is_made_without_talib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "talib", None)
    page = markdown()
    assert "| ADX, PLUS_DI, MINUS_DI: " in page
    assert f"the functions of TA-Lib {WRITTEN['talib']} " in page
