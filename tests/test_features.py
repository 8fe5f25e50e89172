"""The presets and the pages about the indicators stay true to the registry."""

import json
from pathlib import Path

from typer.testing import CliRunner

from finsense.cli.features import markdown, preset_columns
from finsense.cli.main import app
from finsense.state.registry import INDICATORS
from finsense.state.spec import StateSpec

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "features.md"


def test_the_page_is_made_of_the_docstrings() -> None:
    """`finsense features list --markdown > docs/features.md` was run after the last change."""
    assert _PAGE.read_text() == markdown()


def test_full_has_every_indicator_and_core_about_forty_columns() -> None:
    full = StateSpec.model_validate({"features": ["full"]})
    assert {feature.name for feature in full.features} == {name for name, one in INDICATORS.items() if not one.needs} - {"level_distance"}
    assert len(preset_columns("core")) == 40
    assert len(preset_columns("classic29")) == 29


def test_every_indicator_states_formula_and_unit() -> None:
    for name, indicator in INDICATORS.items():
        text = indicator.kernel.__doc__ or ""
        assert "Formula:" in text or name in ("session_left",), name
        assert "Unit" in text, name


def test_show_and_list_speak_json() -> None:
    shown = CliRunner().invoke(app, ["features", "show", "rsi", "--json"])
    assert json.loads(shown.stdout)["columns"] == ["rsi_14"]
    listed = json.loads(CliRunner().invoke(app, ["features", "list", "--json"]).stdout)
    assert {one["name"] for one in listed["indicators"]} == set(INDICATORS)
    assert set(listed["presets"]) == {"classic29", "core", "full", "market", "flow"}
    assert CliRunner().invoke(app, ["features", "show", "rsy"]).exit_code == 2
