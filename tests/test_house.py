"""The house: links, one import name, sizes, public docstrings; the floors are import-linter's."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = _ROOT / "finsense"
_SOURCES = sorted(_PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", ["envs", "agents", "live"])
def test_the_top_level_links_are_signposts(name: str) -> None:
    link = _ROOT / name
    if link.is_file():
        pytest.skip("git wrote links as text files on this file system")
    assert link.is_symlink()
    assert link.readlink() == Path("finsense") / name
    assert link.resolve() == (_PACKAGE / name).resolve()


def test_the_wheel_has_one_import_name_and_its_data(tmp_path: Path) -> None:
    """Built from the tree as pip would build it."""
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip_wheel, "--wheel-dir", str(tmp_path), "."], cwd=_ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"finsense"}
    for needed in (
        "finsense/market/data/nse_sessions.csv",
        "finsense/market/data/nse_charges.csv",
        "finsense/market/data/nse_derivatives.csv",
        "finsense/evaluation/tearsheet.html.j2",
        "finsense/cli/ppo_demo.yaml",
        "finsense/py.typed",
    ):
        assert needed in names


@pytest.mark.parametrize("source", _SOURCES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_sizes_and_first_sentence(source: Path) -> None:
    """A module says its duty; files stay near 300 lines and functions near 40 (a long call may need 60)."""
    text = source.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module opens with one sentence: its duty"
    assert text.count("\n") <= 345
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            arguments = node.body[0].lineno - node.lineno
            code = (node.end_lineno or 0) - node.lineno - docstring.count("\n") - arguments
            assert code <= 60, f"{node.name} has {code} lines"


def test_no_drawer_names() -> None:
    """No module is a drawer for what has no name of its own."""
    drawers = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
    assert not [path for path in _SOURCES if path.stem in drawers or path.parent.name in drawers]


def test_the_configs_are_the_ones_the_package_ships() -> None:
    """configs/ppo_demo.yaml is the demo's own file, not a copy."""
    link = _ROOT / "configs" / "ppo_demo.yaml"
    assert link.resolve().read_bytes() == (_PACKAGE / "cli" / "ppo_demo.yaml").read_bytes()


def test_a_live_box_imports_no_training_code() -> None:
    """Starting the command line loads neither torch nor gymnasium: measured in a fresh interpreter."""
    code = (
        "import sys, finsense.cli.main\n"
        "print([name for name in ('torch', 'gymnasium', 'stable_baselines3', 'sb3_contrib') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
