"""Building an ensemble, what is refused, what becomes of damage, and the commands."""

import datetime as dt
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import market, setting
from ensembles import SPANS, ensemble, member, members, quick_recipe, with_history
from numpy.typing import NDArray
from small_experiment import experiment
from test_law_parity import _write
from typer.testing import CliRunner

from finsense.agents.ensemble import Recipe, build_ensemble
from finsense.agents.ensemble_members import EnsembleError, common_horizon, default_span, first_unseen, load_members
from finsense.agents.ppo import train
from finsense.agents.stacking import StackingError
from finsense.agents.voter_record import VoterRecordError
from finsense.cli.main import app
from finsense.cli.options import setting_of
from finsense.cli.paper import paper_trade
from finsense.evaluation.backtest import Setting, backtest
from finsense.model.bundle import GOLDEN, GRAPH, MANIFEST, MEMBERS, SUMS, Bundle, BundleError, copy_bundle, load_bundle
from finsense.model.ensemble import EnsemblePolicy
from finsense.model.golden import Golden
from finsense.model.manifest import EnsembleSpec, Forecast, Member, Stack
from finsense.model.voting import VOTE
from finsense.state.span import split_history

_FIRST, _LAST = dt.date(2025, 1, 3), dt.date(2025, 1, 9)
_BARS = market(sessions=8)


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return members(tmp_path_factory.mktemp("members"), setting(), 3)


@pytest.fixture(scope="module")
def built(voices: list[Path]) -> Bundle:
    return ensemble(voices[0].parent / "vote", voices, _BARS, quick_recipe())


@pytest.fixture
def copied(built: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.path, tmp_path / "copy"))


def _build(paths: list[Path], out: Path, **changes: Any) -> Bundle:
    return build_ensemble(load_members(paths), out, quick_recipe(**changes), {"SIM": _BARS}, _FIRST, _LAST).bundle


def _spec(bundle: Bundle) -> EnsembleSpec:
    assert bundle.manifest.ensemble is not None
    return bundle.manifest.ensemble


def _dropped(bundle: Bundle) -> dict[str, str]:
    assert isinstance(bundle.policy, EnsemblePolicy)
    return bundle.policy.dropped


def test_it_is_a_bundle_like_another(built: Bundle, voices: list[Path]) -> None:
    """Members whole and verified, sums over everything, weights of the accuracies that were measured."""
    assert built.manifest.kind == "ensemble"
    spec = _spec(built)
    assert [one.name for one in spec.members] == ["m0", "m1", "m2"]
    assert sum(one.weight for one in spec.members) == pytest.approx(1.0)
    assert not (built.path / GRAPH).exists()
    for one, path in zip(spec.members, voices, strict=True):
        assert one.identity == load_bundle(path).identity == load_bundle(built.path / MEMBERS / one.name).identity
    for line in (built.path / SUMS).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((built.path / name).read_bytes()).hexdigest() == digest
    records = spec.measured["records"]
    right, votes = (sum(one[key] for one in records.values()) for key in ("right", "votes"))
    pooled = (right + 1) / (votes + 2)
    for one in spec.members:
        record = records[one.name]
        assert one.accuracy == pytest.approx((record["right"] + 20 * pooled) / (record["votes"] + 20))
        assert one.weight == pytest.approx(one.accuracy / sum(other.accuracy for other in spec.members))
    assert spec.measured["chosen_on_this_span"] == ["m0", "m1", "m2"]
    card = (built.path / "model_card.md").read_text()
    assert "the figures flatter them" in card
    assert "| m2 | test | 1 | 2024-01-01 | 2024-12-31 |" in card


def test_a_copy_is_the_same_and_is_written_whole(built: Bundle, tmp_path: Path) -> None:
    copy = copy_bundle(built.path, tmp_path / "copy")
    assert copy.identity == built.identity
    names = [
        {str(file.relative_to(one.path)) for file in one.path.rglob("*") if file.is_file()} for one in (copy, built)
    ]
    assert names[0] == names[1]
    assert not [entry for entry in tmp_path.iterdir() if entry.name != "copy"]


def test_the_measured_record_is_that_of_a_backtest(built: Bundle, voices: list[Path]) -> None:
    """Counted again by hand: the direction of each action against the forward return beyond the dead zone."""
    spec, bundle = _spec(built), load_bundle(voices[1])
    first, last = (dt.date.fromisoformat(spec.measured[key]) for key in ("first", "last"))
    trace = backtest("m1", bundle.policy, _BARS, setting_of(bundle), first, last).trace
    at = np.searchsorted(_BARS.time_ns, trace.time_ns)
    ends = {int(stop) - 1 for stop in _BARS.session_offsets[1:]}
    votes = right = 0
    for row, bar in enumerate(at.tolist()):
        end = next(one for one in sorted(ends) if one >= bar)
        exit_bar = bar + 1 + spec.horizon
        known = exit_bar <= min(end, int(at[-1])) or (exit_bar > end and bar < end < int(at[-1]))
        action = int(trace.actions[row])
        if not known or action == 1:
            continue
        exit_price = _BARS.open[exit_bar] if exit_bar <= end else _BARS.close[end]
        forward = float(np.log(exit_price / _BARS.open[bar + 1]))
        votes += 1
        right += forward > spec.dead_zone if action == 0 else forward < -spec.dead_zone
    record = spec.measured["records"]["m1"]
    assert (record["votes"], record["right"]) == (votes, right)
    assert votes > 50


_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({"weights": (0.5, 0.3, 0.1)}, "sum to 1, found .* which sum to 0.9"),
    "a weight too few": ({"weights": (0.5, 0.5)}, "one weight per member, found 2 for 3"),
    "negative weight": ({"weights": (1.5, -0.5, 0.0)}, "between 0 and 1"),
    "nan weight": ({"weights": (float("nan"), 0.5, 0.5)}, "between 0 and 1"),
    "consensus": ({"consensus": 4}, "1 to 3, the number of members with a weight above 0, found 4"),
    "no consensus": ({"consensus": 0}, "1 to 3"),
    "too few voices": ({"consensus": 2, "weights": (0.0, 0.0, 1.0)}, "1 to 1, the number of members with a weight"),
    "endless dead zone": ({"dead_zone": float("inf")}, "the dead zone must be 0 or more"),
    "forgetting": ({"forgetting": 1.5}, "between 0 and 1, found 1.5"),
    "horizon": ({"horizon": 0}, "at least one bar"),
    "dead zone": ({"dead_zone": float("nan")}, "0 or more"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_a_recipe_that_makes_no_sense_is_refused(name: str, voices: list[Path], tmp_path: Path) -> None:
    changes, message = _REFUSED[name]
    with pytest.raises(EnsembleError, match=message):
        _build(voices, tmp_path / "out", **changes)
    assert not list(tmp_path.iterdir())


def test_members_that_do_not_go_together_are_refused(voices: list[Path], tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match="at least two bundles, found 0"):
        load_members([])
    with pytest.raises(EnsembleError, match="at least two bundles, found 1"):
        load_members(voices[:1])
    twin = Path(shutil.copytree(voices[0], tmp_path / "twin"))
    with pytest.raises(EnsembleError, match=r"is the same bundle as .*m0"):
        load_members([*voices, twin])
    with pytest.raises(BundleError, match="found nothing"):
        load_members([*voices, tmp_path / "absent"])


def _dearer(terms: Setting) -> Setting:
    return Setting(terms.state, terms.account, terms.costs.model_copy(update={"scale": 2.0}), terms.sessions_per_year)


def _other_features(terms: Setting) -> Setting:
    state = type(terms.state).model_validate({"features": ["rsi", "bollinger"], "warmup": 60})
    return Setting(state, terms.account, terms.costs, terms.sessions_per_year)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda terms: setting(max_position=50), r"account.max_position: m0 has 40, other has 50"),
        (lambda terms: setting(balance=50_000, slippage_bps=5), r"account.balance.*\n.*account.slippage_bps: m0 has 2"),
        (lambda terms: setting(actions={"scheme": "targets", "targets": [0, 1]}), "actions: m0 has .*buy.*target 0"),
        (_dearer, "costs.scale: m0 has 1.0, other has 2.0"),
        (_other_features, "features: m0 has "),
    ],
    ids=["rule", "two rules", "actions", "charges", "features"],
)
def test_differences_are_listed(
    change: Callable[[Setting], Setting], message: str, voices: list[Path], tmp_path: Path
) -> None:
    other = member(tmp_path / "other", change(setting()), 7)
    with pytest.raises(EnsembleError, match="same rules; they differ in\n(.|\n)*" + message):
        load_members([voices[0], other])


def test_an_ensemble_is_no_member(built: Bundle, voices: list[Path]) -> None:
    with pytest.raises(EnsembleError, match="name its members instead"):
        load_members([voices[0], built.path])


def test_names_that_are_taken_get_a_number(voices: list[Path], tmp_path: Path) -> None:
    other = member(tmp_path / "m0", setting(), 8)
    assert list(load_members([voices[0], other, voices[1]])) == ["m0", "m0_2", "m1"]


def test_a_span_that_a_member_was_trained_on_is_refused(voices: list[Path], tmp_path: Path) -> None:
    spans = {**SPANS, "train": ("2024-01-01", "2025-01-03"), "validation": ("2025-01-06", "2025-01-10")}
    late = member(tmp_path / "late", setting(), 9, spans=spans)
    loaded = load_members([*voices, late])
    assert first_unseen(loaded) == dt.date(2025, 1, 4)
    assert default_span(loaded) == (dt.date(2025, 1, 6), dt.date(2025, 1, 10))
    for method in ("vote", "stacking"):
        recipe = quick_recipe(method=method)
        with pytest.raises(EnsembleError, match=r"those begin on 2025-01-04, found .* 2025-01-03"):
            build_ensemble(loaded, tmp_path / "out", recipe, {"SIM": _BARS}, dt.date(2025, 1, 3), _LAST)
    silent = member(tmp_path / "silent", setting(), 10, spans={})
    with pytest.raises(EnsembleError, match="does not say what its train span was"):
        first_unseen(load_members([voices[0], silent]))
    after = {**SPANS, "train": ("2024-01-01", "2025-02-28"), "validation": ("2025-03-03", "2025-03-10")}
    with pytest.raises(EnsembleError, match="no day from 2025-03-01 on"):
        default_span(load_members([voices[0], member(tmp_path / "after", setting(), 11, spans=after)]))


def test_a_span_that_tells_nothing_is_refused(voices: list[Path], tmp_path: Path) -> None:
    loaded = load_members(voices)
    with pytest.raises(VoterRecordError, match="no forward return over 500 bars is known"):
        build_ensemble(
            loaded,
            tmp_path / "out",
            quick_recipe(horizon=500),
            {"SIM": _BARS},
            dt.date(2025, 1, 3),
            dt.date(2025, 1, 3),
        )
    with pytest.raises(StackingError, match=r"bars of every class .* found 0 down, .* flat, 0 up"):
        _build(voices, tmp_path / "out", method="stacking", dead_zone=1000.0)
    assert not (tmp_path / "out").exists()


def test_what_stands_there_is_not_replaced(voices: list[Path], built: Bundle) -> None:
    with pytest.raises(EnsembleError, match="exists; choose another --out"):
        _build(voices, built.path)
    assert load_bundle(built.path).identity == built.identity


def test_the_horizon_is_that_of_the_labels(voices: list[Path]) -> None:
    loaded = load_members(voices)
    assert common_horizon(loaded) == 6

    def forecasting(bundle: Bundle, horizon: int) -> Bundle:
        forecast = Forecast(label={"horizon": horizon}, classes=(), columns=(), calibration={}, decision={})
        manifest = bundle.manifest.model_copy(update={"forecast": forecast})
        return Bundle(bundle.path, bundle.identity, manifest, bundle.policy, bundle.golden, bundle.config)

    one = {**loaded, "m1": forecasting(loaded["m1"], 12)}
    assert common_horizon(one) == 12
    with pytest.raises(EnsembleError, match="m1 12, m2 3"):
        common_horizon({**one, "m2": forecasting(loaded["m2"], 3)})


def test_given_weights_are_kept_and_fixed_ones_never_move(voices: list[Path], tmp_path: Path) -> None:
    bundle = _build(voices, tmp_path / "out", weights=(0.5, 0.5, 0.0), forgetting=None)
    assert [one.weight for one in _spec(bundle).members] == [0.5, 0.5, 0.0]
    policy = bundle.policy.begin()
    for bar in _BARS.take(75, 300):
        policy.learn(bar)
        votes = policy.act(np.ones((1, bundle.manifest.state_width), np.float32), np.ones((1, 3), np.bool_)).votes
        assert votes is not None
        assert votes["weight"].tolist() == [0.5, 0.5, 0.0]


def _damage(file: Path, at: int = 100) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(bytes(content))


def _other_member(copied: Path) -> None:
    shutil.rmtree(copied / MEMBERS / "m1")
    member(copied / MEMBERS / "m1", setting(), 77)


_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed byte": (lambda copy: _damage(copy / MEMBERS / "m1" / GRAPH), "was changed after the export"),
    "changed sums": (lambda copy: _damage(copy / MEMBERS / "m1" / SUMS, 3), "was changed after the export"),
    "a missing file": (lambda copy: (copy / MEMBERS / "m1" / GOLDEN).unlink(), "golden.npz is missing"),
    "a missing member": (lambda copy: shutil.rmtree(copy / MEMBERS / "m1"), "found nothing"),
    "another bundle": (_other_member, "holds another bundle than the one that the ensemble was built of"),
}


@pytest.mark.parametrize("name", _FAULTS)
def test_a_member_that_does_not_load_is_dropped_loudly(
    name: str, copied: Path, built: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others go on, and what they decide is what they voted; nothing is heard of the damaged one."""
    damage, message = _FAULTS[name]
    damage(copied)
    bundle = load_bundle(copied)
    said = capsys.readouterr().out
    assert "a member of the ensemble was dropped; the others go on without it" in said
    assert list(_dropped(bundle)) == ["m1"]
    assert message in _dropped(bundle)["m1"]
    assert bundle.identity == built.identity
    policy = bundle.policy.begin()
    decision = policy.act(np.ones((1, bundle.manifest.state_width), np.float32), np.ones((1, 3), np.bool_))
    assert decision.votes is not None
    assert decision.votes["dropped"].tolist() == [False, True, False]
    trace = backtest("two", bundle.policy, _BARS, setting_of(bundle)).trace
    assert set(trace.actions.tolist()) > {1}, "two of three still have their consensus of two"
    with pytest.raises(BundleError):
        copy_bundle(copied, copied.with_name("again"))
    assert not copied.with_name("again").exists()


def test_with_too_few_members_it_holds_and_says_so(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("m0", "m2"):
        _damage(copied / MEMBERS / name / GRAPH)
    bundle = load_bundle(copied)
    assert "too few are left, so it holds from now on" in capsys.readouterr().out
    assert isinstance(bundle.policy, EnsemblePolicy)
    assert not bundle.policy.can_decide
    assert set(backtest("one", bundle.policy, _BARS, setting_of(bundle)).trace.actions.tolist()) == {1}
    shutil.rmtree(copied / MEMBERS)
    assert set(backtest("none", load_bundle(copied).policy, _BARS, setting_of(bundle)).trace.actions.tolist()) == {1}


def test_a_member_that_is_damaged_between_two_lives_is_out_from_then_on(copied: Path, tmp_path: Path) -> None:
    """What it voted before stands, to the bit; mended, it stays out for the session that went on without it."""
    journal, sound = tmp_path / "journal.db", (copied / MEMBERS / "m1" / GRAPH).read_bytes()
    history, trading = split_history(_BARS, setting().state)
    paper_trade(load_bundle(copied), history, trading.take(0, 100), journal)
    before = _journalled(journal)
    assert not before["dropped"].any()
    _damage(copied / MEMBERS / "m1" / GRAPH)
    _, recovered, _ = paper_trade(load_bundle(copied), history, trading.take(0, 200), journal)
    assert recovered == 100
    (copied / MEMBERS / "m1" / GRAPH).write_bytes(sound)
    _, recovered, _ = paper_trade(load_bundle(copied), history, trading, journal)
    assert recovered == 200
    votes = _journalled(journal)
    assert votes[:100].tobytes() == before.tobytes()
    assert votes["dropped"][100:].tolist() == [[False, True, False]] * (len(trading) - 100)


def _journalled(journal: Path) -> NDArray[Any]:
    """The votes of every journalled bar, (bars, members)."""
    with closing(sqlite3.connect(journal)) as database:
        blobs = [row[0] for row in database.execute("SELECT votes FROM bars ORDER BY time_ns")]
    return np.array([np.frombuffer(blob, VOTE) for blob in blobs])


@pytest.mark.parametrize("name", [MANIFEST, GOLDEN, "config.yaml"])
def test_a_damaged_ensemble_itself_is_refused(name: str, copied: Path) -> None:
    _damage(copied / name)
    with pytest.raises(BundleError, match="was changed after the export"):
        load_bundle(copied)
    (copied / name).unlink()
    with pytest.raises(BundleError, match="is missing"):
        load_bundle(copied)


def _signed(folder: Path, name: str, content: bytes) -> None:
    """Change a file and its sum, as only someone who means it can."""
    before = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / name).write_bytes(content)
    sums = (folder / SUMS).read_text().replace(before, hashlib.sha256(content).hexdigest())
    (folder / SUMS).write_text(sums)


def test_a_manifest_that_makes_no_sense_is_refused(copied: Path) -> None:
    document = json.loads((copied / MANIFEST).read_text())
    sound = json.dumps(document).encode()
    changes: tuple[tuple[Callable[[Any], object], str], ...] = (
        (lambda spec: spec.update(consensus=4), "cannot be had among 3 members"),
        (lambda spec: spec["members"][0].update(weight=0.9), "must sum to 1"),
        (lambda spec: spec["members"][0].update(name="m1"), "different names"),
        (lambda spec: spec["members"][0].update(name="../m1"), "pattern"),
        (lambda spec: spec.update(members=spec["members"][:1]), "at least 2 items"),
        (lambda spec: spec.update(method="stacking"), "needs its regression"),
        (lambda spec: spec.update(dead_zone=-1.0), "greater than or equal to 0"),
    )
    for change, message in changes:
        changed = json.loads(sound)
        change(changed["ensemble"])
        _signed(copied, MANIFEST, json.dumps(changed).encode())
        with pytest.raises(BundleError, match=message):
            load_bundle(copied)
    _signed(copied, MANIFEST, json.dumps({**document, "ensemble": None}).encode())
    with pytest.raises(BundleError, match=r"either a policy\.onnx or an ensemble"):
        load_bundle(copied)


def test_another_way_of_voting_does_not_verify(built: Bundle, copied: Path) -> None:
    """The golden vectors hold the vote itself: the same members that decide otherwise are refused."""
    assert len(built.golden.states) > 2
    changed = Golden(**{**vars(built.golden), "actions": (built.golden.actions + 1) % 3})
    _signed(copied, GOLDEN, changed.to_bytes())
    with pytest.raises(BundleError, match="golden vector 0"):
        load_bundle(copied)


def test_specs_say_what_is_wrong_with_them() -> None:
    voices = tuple(Member(name=name, identity="", weight=0.5, accuracy=0.5, prior_votes=1) for name in ("a", "b"))
    stack = Stack(centre=(0.0,), coefficients=((0.0,), (0.0,), (0.0,)), intercepts=(0.0, 0.0, 0.0))
    plain = {"members": voices, "consensus": 1, "horizon": 1, "dead_zone": 0.0, "forgetting": None}
    with pytest.raises(ValueError, match="takes no regression"):
        EnsembleSpec.model_validate({**plain, "method": "vote", "stack": stack})
    with pytest.raises(ValueError, match="expected 1 coefficients per class"):
        Stack(centre=(0.0,), coefficients=((0.0,), (0.0, 1.0), (0.0,)), intercepts=(0.0, 0.0, 0.0))


def test_policies_that_forecast_nothing_give_no_forecast(built: Bundle) -> None:
    assert built.policy.forecast(np.ones((2, built.manifest.state_width), np.float32)) is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trained agents of the same name: history 2, and history 1."""
    folder = tmp_path_factory.mktemp("trained")
    return [
        train(experiment(), folder / "one").bundle,
        train(experiment(seed=4, state__history=1), folder / "two").bundle,
    ]


def _run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.mark.parametrize("method", ["vote", "stacking"])
def test_trained_agents_become_an_ensemble(trained: list[Path], tmp_path: Path, method: str) -> None:
    """Without data it judges them on their experiment's validation span; then every command runs it unchanged."""
    out = tmp_path / "both"
    rule = ("--method", method, "--consensus", 1, "--dead-zone", 0.1)
    answer = _run("ensemble", "build", *trained, "--out", out, *rule, "--json")
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert [one["name"] for one in document["members"]] == ["small", "small_2"]
    assert (document["measured"]["first"], document["measured"]["last"]) == ("2023-02-01", "2023-02-08")
    assert document["measured"]["symbols"] == ["SIMA", "SIMB"]
    assert document["measured"]["chosen_on_this_span"] == ["small", "small_2"]
    assert document["members"][0]["dropped"] is None
    assert not document["holds_always"]
    assert json.loads(_run("ensemble", "show", out, "--json").stdout) == document
    shown = _run("ensemble", "show", out)
    assert shown.exit_code == 0
    assert "small_2" in shown.stdout
    bars = experiment().data.load()["SIMA"]
    data = ("--data", _write(bars, tmp_path / "bars.parquet"), "--symbol", "SIMA", "--from", "2023-02-09")
    judged = json.loads(_run("backtest", out, *data, "--no-baselines", "--json").stdout)
    equal = json.loads(_run("parity", out, *data, "--json").stdout)
    assert equal["equal"] is True
    assert judged["orders"] > 0
    manifest = load_bundle(out).manifest
    assert manifest.state.history == 2
    assert manifest.provenance.spans == {
        "train": ("2023-01-03", "2023-01-31"),
        "validation": ("2023-02-01", "2023-02-08"),
        "test": ("2023-02-09", "2023-02-28"),
    }


def test_the_command_judges_on_a_file(voices: list[Path], tmp_path: Path) -> None:
    data = ("--data", _write(_BARS, tmp_path / "bars.parquet"), "--symbol", "SIM", "--from", "2025-01-02")
    answer = _run(
        "ensemble", "build", *voices, "--out", tmp_path / "out", *data, "--to", "2025-01-07", "--fixed",
        "--weights", "0.2,0.3,0.5", "--horizon", 4, "--dead-zone", 0,
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    spec = _spec(load_bundle(tmp_path / "out"))
    assert [one.weight for one in spec.members] == [0.2, 0.3, 0.5]
    assert (spec.forgetting, spec.horizon, spec.dead_zone, spec.consensus) == (None, 4, 0.0, 2)
    _damage(tmp_path / "out" / MEMBERS / "m2" / GRAPH)
    shown = _run("ensemble", "show", tmp_path / "out")
    assert shown.exit_code == 5
    assert "dropped" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "0.2,0.2,0.2"), "sum to 1"),
        (("--weights", "a,b,c"), "numbers with commas"),
        (("--method", "majority"), "expected --method vote, mean, stacking"),
        (("--from", "2024-12-30"), "none was trained on"),
        (("--consensus", "9"), "number of members"),
    ],
)
def test_the_command_refuses_what_is_wrong(
    arguments: tuple[str, ...], message: str, voices: list[Path], tmp_path: Path
) -> None:
    data = ("--data", _write(_BARS, tmp_path / "bars.parquet"), "--symbol", "SIM")
    answer = _run("ensemble", "build", *voices, "--out", tmp_path / "out", *data, *arguments)
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert not (tmp_path / "out").exists()


def test_a_span_that_is_too_short_is_a_fault_of_the_data(voices: list[Path], tmp_path: Path) -> None:
    data = ("--data", _write(_BARS, tmp_path / "bars.parquet"), "--symbol", "SIM", "--from", "2025-01-02")
    for rule, message in (
        (("--horizon", 75, "--to", "2025-01-02"), "no forward return"),
        (("--method", "stacking", "--dead-zone", 900), "every class"),
    ):
        answer = _run("ensemble", "build", *voices, "--out", tmp_path / "out", *data, *rule)
        assert answer.exit_code == 4, answer.output
        assert message in answer.stderr


def test_the_command_needs_members_and_an_ensemble(voices: list[Path], tmp_path: Path) -> None:
    assert _run("ensemble", "build", "--out", tmp_path / "out").exit_code == 2
    assert _run("ensemble", "build", voices[0], "--out", tmp_path / "out").exit_code == 2
    needs_symbol = _run("ensemble", "build", *voices, "--out", tmp_path / "out", "--data", voices[0] / "config.yaml")
    assert needs_symbol.exit_code == 2
    assert "--data needs --symbol" in needs_symbol.stderr
    alone = _run("ensemble", "show", voices[0])
    assert alone.exit_code == 2
    assert "not an ensemble" in alone.stderr


def test_the_longest_history_is_that_of_the_ensemble(tmp_path: Path) -> None:
    terms = setting()
    paths = [member(tmp_path / f"h{history}", with_history(terms, history), history) for history in (1, 3)]
    bundle = _build(paths, tmp_path / "out")
    assert bundle.manifest.state == with_history(terms, 3).state
    assert Recipe().consensus is None
