"""A user's own indicator, in the user's own file: it gets everything, or a clear refusal that names it."""

import dataclasses
import datetime as dt
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from bundles import make_bundle, market, setting
from markets import SPLIT, rough_bars
from pydantic import ValidationError
from test_law_parity import _write
from typer.testing import CliRunner

from finsense.cli.main import app
from finsense.config import ConfigError, load_experiment
from finsense.market.instruments import instrument
from finsense.market.timeline import timeline
from finsense.model.bundle import BundleError, copy_bundle, load_bundle
from finsense.state import extension, foreign
from finsense.state.builder import build_states
from finsense.state.extension import absolute_reference, find_indicator
from finsense.state.kernels import fold_sessions, stream
from finsense.state.laws import check_laws
from finsense.state.registry import INDICATORS
from finsense.state.spec import StateSpec

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "own_indicator.md"

HEAD = """\
import math
from numba import njit
from finsense.market.timeline import CLOSE, HIGH, LOW, VOLUME
from finsense.state.registry import indicator
from finsense.state.windows import SUM_CELLS, slide_lead

"""
LEAD = (
    HEAD
    + """\
@indicator(
    defaults={"window": 5},
    columns=lambda p: (f"lead_{p['window']:g}",),
    memory=lambda p: SUM_CELLS + int(p["window"]),
    lookback=lambda p: int(p["window"]),
)
def lead(bar, parameters, memory, out):
    \"\"\"How far the close lies above its mean. Unit: fraction.\"\"\"
    out[0] = 1.0 * slide_lead(memory, 0, int(parameters[0]), bar[CLOSE]) / bar[CLOSE]
"""
)
BARS = rough_bars(3, dt.date(2024, 2, 26), SPLIT[1])
LINE = timeline(BARS, instrument("SIM"), None)


def indicator_text(body: str, name: str = "mine", head: str = HEAD, **declared: str) -> str:
    """A file of one indicator; its declaration as it stands in the file."""
    said = {"defaults": '{"window": 5}', "columns": 'lambda p: ("mine",)', "memory": "lambda p: 3"}
    said = {**said, "lookback": "lambda p: 1", **declared}
    given = ", ".join(f"{key}={value}" for key, value in said.items() if value)
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{head}@indicator({given})\ndef {name}(bar, parameters, memory, out):\n{lines}"


def write(folder: Path, text: str | bytes, name: str = "own.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def spec_with(*features: Any, warmup: int = 30) -> StateSpec:
    return StateSpec.model_validate({"features": features, "warmup": warmup})


def refusal(feature: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        spec_with(feature)
    return str(caught.value)


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Forget what was loaded and compiled, as a process that starts; the disk stays."""

    def forget() -> None:
        monkeypatch.setattr(extension, "_loaded", {})
        monkeypatch.setattr(foreign, "_compiled", {})
        extension._verdict.cache_clear()

    return forget


def test_an_own_indicator_keeps_every_law_beside_built_in_ones(tmp_path: Path) -> None:
    own = write(tmp_path, LEAD)
    spec = spec_with("session_left", f"{own}:lead", {f"{own}:lead": {"window": 9}})
    assert spec.columns == ("session_left", "lead_5", "lead_9")
    assert check_laws(LINE, spec) == []
    states = build_states(LINE, spec)
    assert np.abs(states.rows[:, 1:]).max() > 0
    assert "lead" not in INDICATORS


def test_the_drivers_are_not_compiled_again(tmp_path: Path) -> None:
    build_states(LINE, spec_with("session_left"))
    before = len(fold_sessions.signatures), len(stream.signatures)
    build_states(LINE, spec_with(f"{write(tmp_path, LEAD)}:lead"))
    assert (len(fold_sessions.signatures), len(stream.signatures)) == before


def test_functions_of_the_file_may_be_compiled_by_njit(tmp_path: Path) -> None:
    head = HEAD + "@njit\ndef doubled(memory):\n    return 2.0 * memory[0]\n\n"
    head += "@njit\ndef taken(memory, value):\n    memory[0] = value\n    return doubled(memory)\n\n"
    own = write(tmp_path, indicator_text("out[0] = taken(memory, bar[CLOSE])", head=head))
    rows = build_states(LINE, spec_with(f"{own}:mine")).rows
    assert (rows[:, 0] == (2 * BARS.close[-len(rows) :]).astype(np.float32)).all()


REFUSED: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "reads ahead": (
        indicator_text("out[0] = bar[28 + CLOSE]"),
        ("own.py:mine` breaks the law `cells` at bar 0 (2024-0", "it reads `bar[31]`", "(own.py, line 9)"),
    ),
    "a ring that is one cell short": (
        indicator_text(
            "slot = int(memory[0])\nmemory[1 + slot] = bar[CLOSE]\nmemory[0] = (slot + 1) % 5\nout[0] = slot"
        ),
        ("it writes `memory[3]`, but `memory` has 3 cells; declare more in `memory=`", "line 10"),
    ),
    "not a number": (
        indicator_text("out[0] = math.log(bar[VOLUME])"),
        ("breaks the law `defined` at bar 0", "ValueError: math domain error", "volume 0"),
    ),
    "infinite": (
        indicator_text("out[0] = bar[CLOSE] / bar[VOLUME] if bar[CLOSE] > 1 else 1e39"),
        ("breaks the law `defined`", "float division by zero"),
    ),
    "too few columns": (
        indicator_text("out[0] = 1.0\nout[1] = 2.0"),
        ("it writes `out[1]`, but `out` has 1 cells; declare more in `columns=`",),
    ),
    "too many columns": (
        indicator_text("out[0] = 1.0", columns='lambda p: ("a", "b")'),
        ("it leaves out[1], column `b`, unwritten",),
    ),
    "a column without its comma": (
        indicator_text("out[0] = 1.0", columns='lambda p: ("mine")'),
        ("columns= must give a tuple of names", "with the comma; found 'mine'"),
    ),
    "a typo in columns": (
        indicator_text("out[0] = 1.0", columns="lambda p: (f\"mine_{p['windw']}\",)"),
        ("columns= raises KeyError: 'windw'; its parameters are: window",),
    ),
    "memory that is no whole number": (
        indicator_text("out[0] = 1.0", memory='lambda p: p["window"]'),
        ("memory= must give a whole number of at least 0, found 5.0; write int(...)",),
    ),
    "no lookback": (
        indicator_text("out[0] = 1.0", lookback=""),
        ("own.py:mine`: the file cannot be run: line 7", "missing 1 required keyword-only argument: 'lookback'"),
    ),
    "a parameter that is a text": (
        indicator_text("out[0] = 1.0", defaults='{"mode": "fast"}'),
        ("`mine`: the default of `mode` must be a number above 0", "found 'fast'"),
    ),
    "a list": (
        indicator_text("out[0] = max([bar[CLOSE], bar[LOW]])"),
        ("own.py:mine` breaks the law `compiles`: it allocates memory (line 9): no array, list, text or other object",),
    ),
    "a slice": (
        indicator_text("out[0] = sum(memory[0:3])"),
        ("it reads `memory[slice(0, 3, None)]`",),
    ),
    "what numba cannot compile": (
        indicator_text("try:\n    out[0] = 1.0 / bar[CLOSE]\nexcept ZeroDivisionError:\n    out[0] = 0.0"),
        ("numba cannot compile it", "Exception matching is limited to"),
    ),
    "a global": (
        indicator_text("global SEEN\nSEEN = 1.0\nout[0] = SEEN"),
        ("breaks the law `compiles`", "STORE_GLOBAL"),
    ),
    "an unknown name": (
        indicator_text("out[0] = closs"),
        ("NameError: name 'closs' is not defined (own.py, line 9)",),
    ),
    "randomness": (
        indicator_text("out[0] = np.random.random()", head="import numpy as np\n" + HEAD),
        ("breaks the law `pure`", "draws at random"),
    ),
    "compiled already": (
        LEAD.replace("def lead(", "@njit\ndef mine("),
        ("it must be a plain Python function; leave @njit away",),
    ),
    "a name of ours": (
        indicator_text("out[0] = 1.0", name="rsi"),
        ("own.py:mine`: `rsi` is the name of a built-in indicator; choose another one",),
    ),
    "twice in one file": (
        indicator_text("out[0] = 1.0") + indicator_text("out[0] = 2.0", head=""),
        ("the file cannot be run: line 10", "an indicator named `mine` is registered already"),
    ),
    "no indicator at all": ("X = 1\n", ("own.py:mine`: the file has no indicator `mine`; decorate a function",)),
    "another name": (
        indicator_text("out[0] = 1.0", name="mime"),
        ("the file has no indicator `mine`; did you mean `mime`?; it has: mime",),
    ),
    "not Python": ("def broken(:\n    pass\n", ("the file is not Python: line 1, `def broken(:`: invalid syntax",)),
    "not text": (b"\xff\xfe\x00", ("own.py:mine`: the file is not Python",)),
    "raises when it is run": (
        "import math\n\n\ndef half(x):\n    return math.sqrt(x)\n\n\nhalf(-1.0)\n",
        ("the file cannot be run: line 5, `return math.sqrt(x)`: ValueError: math domain error",),
    ),
    "ends the process": (
        "import sys\nsys.exit(3)\n",
        ("the file cannot be run: line 2, `sys.exit(3)`: SystemExit: 3",),
    ),
    "imports what a live box lacks": (
        "import pandas as pd\n" + HEAD,
        ("line 1 imports `pandas`; a file of indicators travels alone",),
    ),
    "imports its neighbour": ("from .windows import mean\n", ("line 1 imports `.windows`",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_faulty_file_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    text, expected = REFUSED[case]
    own = write(tmp_path, text)
    message = refusal(f"{own}:mine")
    for part in expected:
        assert part in message
    assert "own.py" in message
    assert not [name for name in INDICATORS if name in ("mine", "mime")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"windw": 3}, "unknown parameter `windw` of `lead`; did you mean `window`? known: window"),
        ({"window": 2.5}, "parameter `window` of `lead` counts bars and must be whole, found 2.5"),
        ({"window": 31}, "warmup must be at least 31 bars: `lead` looks back 31 bars"),
        ([3], "a feature is a name or"),
    ],
)
def test_parameters_are_checked_as_those_of_built_in_ones(tmp_path: Path, given: Any, message: str) -> None:
    assert message in refusal({f"{write(tmp_path, LEAD)}:lead": given})


def test_the_laws_run_with_the_parameters_of_the_yaml(tmp_path: Path) -> None:
    """Sound with its default, one cell short with a longer window."""
    body = "memory[int(parameters[0]) - 3] = 1.0\nout[0] = memory[0]"
    own = write(tmp_path, indicator_text(body))
    assert spec_with(f"{own}:mine").columns == ("mine",)
    assert "it writes `memory[3]`" in refusal({f"{own}:mine": {"window": 6}})


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("absent.py:mine", "absent.py:mine`: cannot read the file: no such file or directory"),
        ("no_such_package.inner:mine", "the module `no_such_package.inner` cannot be found"),
        ("no_such_module:mine", "there is no module `no_such_module` with a Python source"),
        (":mine", "`:mine`: there is no module ``"),
        ("math:sqrt", "there is no module `math` with a Python source"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(reference)


def test_the_file_name_must_travel(tmp_path: Path) -> None:
    assert "has a name like my_indicators.py" in refusal(f"{write(tmp_path, LEAD, 'my own;.py')}:lead")
    one, other = write(tmp_path, LEAD, "a/own.py"), write(tmp_path, LEAD.replace("1.0 *", "2.0 *"), "b/Own.py")
    assert spec_with(f"{one}:lead").sources
    with pytest.raises(ValidationError, match=r"two different files of indicators are named own\.py"):
        spec_with(f"{one}:lead", {f"{other}:lead": {"window": 7}})


def test_two_versions_of_a_file_live_side_by_side(tmp_path: Path) -> None:
    own = write(tmp_path, LEAD)
    old = spec_with(f"{own}:lead")
    write(tmp_path, LEAD.replace("1.0 *", "4.0 *"))
    new = spec_with(f"{own}:lead")
    assert old.hash() != new.hash()
    before, after = (build_states(LINE, spec).rows for spec in (old, new))
    np.testing.assert_allclose(after, 4 * before, rtol=1e-6)


def test_where_the_file_lies_does_not_matter(tmp_path: Path) -> None:
    here, there = write(tmp_path, LEAD, "a/own.py"), write(tmp_path, LEAD, "b/own.py")
    assert spec_with(f"{here}:lead").hash() == spec_with(f"{there}:lead").hash()
    assert spec_with("rsi").hash() == StateSpec.model_validate(spec_with("rsi").model_dump()).hash()
    assert "source" not in spec_with("rsi").canonical()


def test_a_module_that_a_notebook_has_imported_is_no_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write(tmp_path, LEAD, "notebook_lead.py")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        importlib.import_module("notebook_lead")
        assert "lead" in INDICATORS
        assert spec_with(f"{own}:lead").columns == ("lead_5",)
        assert spec_with("notebook_lead:lead").hash() == spec_with(f"{own}:lead").hash()
    finally:
        INDICATORS.pop("lead", None)


def test_an_installed_package_offers_its_indicators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `package.module:function` and by the name of an entry point."""
    write(tmp_path, "", "desk_pack/__init__.py")
    write(tmp_path, LEAD, "desk_pack/leads.py")
    write(
        tmp_path, "[finsense.indicators]\ndesk-lead = desk_pack.leads:lead\n", "desk_pack-1.dist-info/entry_points.txt"
    )
    write(tmp_path, "Metadata-Version: 2.1\nName: desk-pack\nVersion: 1\n", "desk_pack-1.dist-info/METADATA")
    monkeypatch.syspath_prepend(tmp_path)
    named, pointed = spec_with("desk_pack.leads:lead"), spec_with({"desk-lead": {"window": 5}})
    assert named.hash() == pointed.hash()
    assert named.sources[0].file == tmp_path / "desk_pack" / "leads.py"
    assert find_indicator("desk-lead")[1].name == "lead"
    assert "desk_pack.leads" not in sys.modules
    assert "has no indicator `leed`; did you mean `lead`?" in refusal("desk_pack.leads:leed")


def experiment_text(features: str) -> str:
    demo = (ROOT / "finsense" / "cli" / "ppo_demo.yaml").read_text()
    return demo.replace("features: [classic29]", f"features: {features}")


def test_a_file_is_relative_to_the_yaml_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, LEAD, "shared/own.py")
    write(tmp_path, experiment_text("[own.py:lead, {own.py:lead: {window: 7}}]"), "shared/base.yaml")
    yaml = write(tmp_path, "extends: ../shared/base.yaml\nname: extended\n", "desk/mine.yaml")
    loaded = load_experiment(yaml)
    assert loaded.state.columns == ("lead_5", "lead_7")
    monkeypatch.chdir(tmp_path / "shared")
    overridden = load_experiment(yaml, ["state.features=[own.py:lead]"])
    assert overridden.state.sources == loaded.state.sources
    assert absolute_reference("package.module:lead", tmp_path) == "package.module:lead"

    again = load_experiment(write(tmp_path, loaded.resolved_yaml(), "elsewhere/resolved.yaml"))
    assert again.hash() == loaded.hash()
    assert again.state.hash() == loaded.state.hash()
    shutil.copytree(tmp_path / "shared", tmp_path / "moved")
    assert load_experiment(tmp_path / "moved" / "base.yaml", ["name=extended"]).hash() == loaded.hash()
    changed = write(tmp_path, LEAD.replace("1.0 *", "3.0 *"), "shared/own.py")
    assert load_experiment(yaml).hash() != loaded.hash()
    assert load_experiment(yaml).state.sources[0].file == changed


def test_a_resolved_config_refuses_a_file_that_was_changed(tmp_path: Path, new_process: Any) -> None:
    own = write(tmp_path, LEAD)
    resolved = write(
        tmp_path, load_experiment(write(tmp_path, experiment_text("[own.py:lead]"), "a.yaml")).resolved_yaml(), "b.yaml"
    )
    write(tmp_path, LEAD.replace("1.0 *", "3.0 *"))
    new_process()
    with pytest.raises(
        ConfigError, match=rf"{own}:lead`: the file was changed since it was named: expected SHA-256 \w+, found \w+"
    ):
        load_experiment(resolved)


def test_a_refusal_points_at_the_line_of_the_feature(tmp_path: Path) -> None:
    write(tmp_path, indicator_text("out[0] = math.log(bar[VOLUME])"))
    yaml = write(tmp_path, experiment_text("\n    - classic29\n    - own.py:mine"), "mine.yaml")
    with pytest.raises(ConfigError) as caught:
        load_experiment(yaml)
    (problem,) = caught.value.problems
    assert "own.py:mine` breaks the law `defined` at bar 0" in problem.message
    assert problem.place is not None
    assert problem.place.text.strip() == "- own.py:mine"


def test_a_kernel_is_cached_by_its_content(tmp_path: Path, new_process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process compiles nothing; a file of the same size and date with another constant is another kernel."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    own = write(tmp_path, LEAD)

    def hits_and_rows() -> tuple[int, Any]:
        new_process()
        rows = build_states(LINE, spec_with(f"{own}:lead")).rows
        (compiled,) = foreign._compiled.values()
        return compiled.cache_hits, rows

    cold, before = hits_and_rows()
    warm, same = hits_and_rows()
    assert (cold, warm) == (0, 1)
    assert same.tobytes() == before.tobytes()
    stamps = own.stat()
    write(tmp_path, LEAD.replace("1.0 *", "2.0 *"))
    # numba remembers a file's hash by its date and size within one process; another one reads it.
    os.utime(own, ns=(stamps.st_atime_ns, stamps.st_mtime_ns + 1_000_000))
    changed, after = hits_and_rows()
    assert changed == 0
    np.testing.assert_allclose(after, 2 * before, rtol=1e-6)


def test_a_box_without_a_place_for_caches_compiles_all_the_same(
    tmp_path: Path, new_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every folder where numba could keep a kernel is a file: nothing can be written there, even by root."""
    own = write(tmp_path, LEAD)
    nowhere = write(tmp_path, "", "nowhere")
    write(tmp_path, "", "__pycache__")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(nowhere / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere / "home"))
    new_process()
    assert len(build_states(LINE, spec_with(f"{own}:lead")).rows) > 0


def own_bundle(folder: Path, own: Path) -> Path:
    terms = dataclasses.replace(setting(), state=spec_with("rsi", f"{own}:lead", warmup=60))
    return make_bundle(folder, terms).path


def test_a_bundle_carries_the_file(tmp_path: Path) -> None:
    own = write(tmp_path, LEAD)
    bundle = own_bundle(tmp_path / "policy", own)
    assert (bundle / "indicators" / "own.py").read_text() == LEAD
    document = json.loads((bundle / "bundle.json").read_text())
    assert document["state"]["features"][1]["source"]["file"] == "indicators/own.py"
    assert str(tmp_path) not in (bundle / "bundle.json").read_text()
    assert load_bundle(bundle).manifest.state.hash() == spec_with("rsi", f"{own}:lead", warmup=60).hash()
    assert sorted(entry.name for entry in copy_bundle(bundle, tmp_path / "copy").path.rglob("*.py")) == ["own.py"]
    assert load_bundle(tmp_path / "copy").identity == load_bundle(bundle).identity


def test_a_bundle_carries_what_was_run_and_not_what_the_file_became(tmp_path: Path) -> None:
    """The user edits on while a training runs."""
    own = write(tmp_path, LEAD)
    terms = dataclasses.replace(setting(), state=spec_with(f"{own}:lead", warmup=60))
    own.unlink()
    bundle = make_bundle(tmp_path / "policy", terms).path
    assert (bundle / "indicators" / "own.py").read_text() == LEAD


def test_a_live_box_needs_the_bundle_alone(tmp_path: Path) -> None:
    """Another process, the original file gone: paper trading over the bars equals the backtest here, to the byte."""
    own = write(tmp_path, LEAD, "desk/own.py")
    bundle = own_bundle(tmp_path / "policy", own)
    _write(market(sessions=4), tmp_path / "bars.parquet")
    words = ["--data", str(tmp_path / "bars.parquet"), "--symbol", "SIM", "--no-baselines", "--json"]
    backtest = CliRunner().invoke(app, ["backtest", str(bundle), *words])
    assert backtest.exit_code == 0, backtest.output
    judged = json.loads(backtest.stdout)
    (tmp_path / "box").mkdir()
    box = shutil.move(bundle, tmp_path / "box" / "policy")
    shutil.rmtree(tmp_path / "desk")
    line = ["paper", "--bundle", str(box), "--replay", str(tmp_path / "bars.parquet"), "--symbol", "SIM", "--json"]
    command = [sys.executable, "-c", "from finsense.cli.main import main; main()", *line, "--journal", "j.db"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["sha256"] == judged["sha256"]
    assert judged["orders"] > 0


def _sign(bundle: Path) -> None:
    """Make the sums agree again, as somebody would who means it."""
    names = [line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()]
    sums = "".join(f"{hashlib.sha256((bundle / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (bundle / "SHA256SUMS").write_text(sums)


def test_a_carried_file_is_run_only_when_its_hash_agrees(tmp_path: Path, new_process: Any) -> None:
    bundle = own_bundle(tmp_path / "policy", write(tmp_path, LEAD))
    trap = tmp_path / "was_run"
    write(bundle, LEAD + f"open({str(trap)!r}, 'w').close()\n", "indicators/own.py")
    new_process()
    with pytest.raises(BundleError, match=r"indicators/own\.py was changed after the export: expected SHA-256"):
        load_bundle(bundle)
    _sign(bundle)
    with pytest.raises(
        BundleError, match=r"own\.py:lead`: the file was changed since it was named: expected SHA-256 \w+, found \w+"
    ):
        load_bundle(bundle)
    (bundle / "indicators" / "own.py").unlink()
    with pytest.raises(BundleError, match=r"indicators/own\.py is missing"):
        load_bundle(bundle)
    sums = (bundle / "SHA256SUMS").read_text().splitlines(keepends=True)
    (bundle / "SHA256SUMS").write_text("".join(line for line in sums if "own.py" not in line))
    with pytest.raises(BundleError, match=r"own\.py:lead`: the bundle does not carry this file"):
        load_bundle(bundle)
    assert not trap.exists()


def test_a_bundle_looks_at_no_file_outside_it(tmp_path: Path, new_process: Any) -> None:
    """A path of the training box in a manifest is not followed, even where such a file lies there."""
    own = write(tmp_path, LEAD)
    bundle = own_bundle(tmp_path / "policy", own)
    manifest = (bundle / "bundle.json").read_text().replace("indicators/own.py", str(own))
    (bundle / "bundle.json").write_text(manifest)
    shutil.rmtree(bundle / "indicators")
    sums = (bundle / "SHA256SUMS").read_text().splitlines(keepends=True)
    (bundle / "SHA256SUMS").write_text("".join(line for line in sums if "own.py" not in line))
    _sign(bundle)
    new_process()
    with pytest.raises(BundleError, match=r"own\.py:lead`: the bundle does not carry this file"):
        load_bundle(bundle)


def test_the_page_works_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, its YAML and its commands, on a market that is small enough for a test."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (python,), (yaml,), (commands,) = (
        [text for kind, text in blocks if kind == wanted] for wanted in ("python", "yaml", "bash")
    )
    monkeypatch.chdir(tmp_path)
    write(tmp_path, python, "my_indicators.py")
    write(tmp_path, yaml, "own.yaml")
    shutil.copy(ROOT / "configs" / "ppo_demo.yaml", tmp_path / "ppo_demo.yaml")
    _write(market("RELIANCE", sessions=6), tmp_path / "bars.parquet")
    small = {
        "data.last": "2024-02-29",
        "split.train": "{from: 2024-01-01, to: 2024-01-31}",
        "split.validation": "{from: 2024-02-01, to: 2024-02-09}",
        "split.test": "{from: 2024-02-12, to: 2024-02-29}",
        "agent.steps": "4096",
        "agent.n_steps": "64",
        "agent.eval_every": "4096",
        "agent.net_arch": "[8]",
    }
    overrides = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    for command in commands.splitlines():
        program, *words = command.split()
        assert program == "finsense"
        answer = CliRunner().invoke(app, [*words, *(overrides if "own.yaml" in words else [])])
        assert answer.exit_code == 0, f"{command}: {answer.output}"
    spec = load_bundle(tmp_path / "run" / "bundle").manifest.state
    assert spec.columns[-2:] == ("range_z_20", "range_z_10")
    assert check_laws(timeline(rough_bars(1, dt.date(2024, 2, 1), SPLIT[1]), instrument("SIM"), None), spec) == []
