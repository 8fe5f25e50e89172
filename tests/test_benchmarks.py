"""Every benchmark runs, at a size that measures nothing, and writes the lines that are documented."""

import json
import math

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.measurement import Contender, Effort, Measurement, Peer, measure_rate
from benchmarks.start import start

TINY = Effort(rounds=1, scale=0.002)
# One compiled function of our own, so that the cold start compiles a moment and not the whole package.
ONE_KERNEL = """
import json, time
started_s = time.perf_counter()
from finsense.market.timeline import to_paise
imported_s = time.perf_counter()
assert to_paise(1.25) == 125
print(json.dumps([imported_s - started_s, time.perf_counter() - imported_s]))
"""


def check(lines: list[Measurement]) -> None:
    assert lines
    for line in lines:
        document = json.loads(json.dumps(line.as_dict(), allow_nan=False))
        assert list(document) == ["name", "value", "unit", "peer", "peer_value", "ratio"]
        assert document["value"] > 0
        assert document["unit"]
        compared = [document[key] is not None for key in ("peer", "peer_value", "ratio")]
        assert all(compared) or not any(compared)


# Five models are trained before the first of their votes is measured; the others start processes again and again.
LONG = ("ensemble_decision", "kill", "live_order")


@pytest.mark.parametrize(
    "name",
    [
        *sorted(set(BENCHMARKS) - {"start", *LONG}),
        *(pytest.param(name, marks=pytest.mark.slow) for name in LONG),
    ],
)
def test_a_benchmark_measures(name: str) -> None:
    check(BENCHMARKS[name](TINY))


def test_the_start_is_measured_in_fresh_processes() -> None:
    lines = start(TINY, {"one": ONE_KERNEL})
    check(lines)
    assert [line.name for line in lines] == ["start_one_import", "start_one_first_use"]


def test_contenders_take_turns_after_a_round_that_does_not_count() -> None:
    done: list[str] = []

    def contender(name: str) -> Contender:
        return Contender(lambda: done.append(name), 1, lambda: done.append(f"{name} ready"))

    lines = measure_rate("x", "steps", contender("a"), Effort(rounds=2), [Peer("b", contender("b"))])
    assert done == ["a ready", "a", "b ready", "b"] * 3
    assert [(line.unit, line.peer) for line in lines] == [("steps/s", "b"), ("steps/CPU s", "b")]


def test_numbers_are_given_with_four_digits() -> None:
    line = Measurement("x", 123456.0, "steps/s", "y", 2 / 3, math.pi).as_dict()
    assert (line["value"], line["peer_value"], line["ratio"]) == (123500.0, 0.6667, 3.142)


def test_the_command_writes_json_lines_and_nothing_else_to_stdout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "live_update", "--rounds", "1"])
    main()
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["name"] for line in written} == {"live_update", "live_update_first_bar_of_session"}


@pytest.mark.parametrize("arguments", [["no_such"], ["backtest", "--rounds", "0"]])
def test_a_wrong_argument_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "found 0" in capsys.readouterr().err or arguments == ["no_such"]
