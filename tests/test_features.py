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
    assert {feature.name for feature in full.features} == {
        name for name, one in INDICATORS.items() if not one.needs
    } - {"level_distance"}
    assert len(preset_columns("core")) == 40
    assert len(preset_columns("classic29")) == 29


def test_every_indicator_states_formula_and_unit() -> None:
    for name, indicator in INDICATORS.items():
        text = indicator.kernel.__doc__ or ""
        # One may be told by another: "Formula, unit and defined values as ...".
        assert "Formula" in text or name in ("session_left",), name
        assert "Unit" in text or "unit" in text, name


def test_show_and_list_speak_json() -> None:
    shown = CliRunner().invoke(app, ["features", "show", "rsi", "--json"])
    assert json.loads(shown.stdout)["columns"] == ["rsi_14"]
    listed = json.loads(CliRunner().invoke(app, ["features", "list", "--json"]).stdout)
    assert {one["name"] for one in listed["indicators"]} == set(INDICATORS)
    assert set(listed["presets"]) == {"classic29", "core", "full", "market", "flow"}
    unknown = CliRunner().invoke(app, ["features", "show", "rsy"])
    assert unknown.exit_code == 2
    assert "did you mean `rsi`" in unknown.output


def test_show_says_what_an_indicator_needs_and_knows_a_users_own(tmp_path: Path) -> None:
    needing = next(indicator for indicator in INDICATORS.values() if indicator.needs)
    shown = CliRunner().invoke(app, ["features", "show", needing.name])
    assert f"needs:    {', '.join(needing.needs)}" in shown.stdout
    assert json.loads(CliRunner().invoke(app, ["features", "show", needing.name, "--json"]).stdout)["needs"] == list(
        needing.needs
    )
    own = tmp_path / "mine.py"
    own.write_text(
        "from finsense.state.registry import indicator\n\n"
        "@indicator(defaults={}, columns=lambda p: ('mine',), memory=lambda p: 0, lookback=lambda p: 1)\n"
        "def mine(bar, parameters, memory, out):\n"
        '    """The body of a bar."""\n'
        "    out[0] = bar[3] / bar[0] - 1.0\n"
    )
    described = json.loads(CliRunner().invoke(app, ["features", "show", f"{own}:mine", "--json"]).stdout)
    assert (described["name"], described["title"]) == ("mine", "The body of a bar.")
    missing = CliRunner().invoke(app, ["features", "show", f"{own}:other"])
    assert missing.exit_code == 2
    assert "no indicator `other`" in missing.output
