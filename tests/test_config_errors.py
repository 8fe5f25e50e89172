"""What an experiment file says about every mistake: all at once, each at its place."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import SIMULATED, Write, errors, messages, write_file
from hypothesis import given, settings
from hypothesis import strategies as st

from finsense.config import ConfigError, Experiment, Problem, load_experiment
from finsense.config.rendering import to_yaml
from finsense.market.simulate import SimulatedMarket


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes into an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return write_file


# --- errors -----------------------------------------------------------------------------------------------------------

WRONG = """\
extends: base.yaml
seed: yes
data:
  simbols: [AAA]
split:
  test: {from: 2023-13-01}
reward: {kind: drawdwn}
agent:
    n_epochs: 0
    ent_coeff: 0.01
    activation: rleu
    net_arch: [64, -3]
    n_epochs: 3
account:
  entry_cutoff_minutes: 5
"""

RENDERED = """\
error[config]: bad value for `seed`
 --> ppo.yaml:2:7
  |
2 | seed: yes
  |       ^^^ expected an integer >= 0 and <= 4294967295, found `yes`

error[config]: unknown key `simbols` under `data`
 --> ppo.yaml:4:3
  |
4 |   simbols: [AAA]
  |   ^^^^^^^ did you mean `symbols`?
  = allowed: {data}

error[config]: bad value for `split.test.from`
 --> ppo.yaml:6:16
  |
6 |   test: {{from: 2023-13-01}}
  |                ^^^^^^^^^^ expected a date (YYYY-MM-DD), found `2023-13-01`
  = month value is outside expected range of 1-12

error[config]: bad value for `reward.kind`
 --> ppo.yaml:7:16
  |
7 | reward: {{kind: drawdwn}}
  |                ^^^^^^^ {reward}

error[config]: bad value for `agent.n_epochs`
 --> ppo.yaml:9:15
  |
9 |     n_epochs: 0
  |               ^ expected an integer >= 1, found `0`

error[config]: unknown key `ent_coeff` under `agent`
  --> ppo.yaml:10:5
   |
10 |     ent_coeff: 0.01
   |     ^^^^^^^^^ did you mean `ent_coef` or `vf_coef`?
   = allowed: {agent}

error[config]: bad value for `agent.activation`
  --> ppo.yaml:11:17
   |
11 |     activation: rleu
   |                 ^^^^ expected `tanh` or `relu`, found `rleu`; did you mean `relu`?

error[config]: bad value for `agent.net_arch.1`
  --> ppo.yaml:12:20
   |
12 |     net_arch: [64, -3]
   |                    ^^ expected an integer >= 1 and <= 65536, found `-3`

error[config]: duplicate key `n_epochs` under `agent`
  --> ppo.yaml:13:5
   |
13 |     n_epochs: 3
   |     ^^^^^^^^ first given on line 9

error[config]: `account`: entry_cutoff_minutes (5) must be at least square_off_minutes (15): {account}
  --> ppo.yaml:15:3
   |
15 |   entry_cutoff_minutes: 5
   |   ^^^^^^^^^^^^^^^^^^^^ found `5`

error[config]: bad value for `agent.clip_range`
  --> --set
   |
   | agent.clip_range=wide
   |                  ^^^^ expected a number > 0 and <= 1, found `wide`

error[config]: unknown key `gama` under `agent`
  --> --set
   |
   | agent.gama=0.9
   |       ^^^^ did you mean `gamma`?
   = allowed: {agent}"""


def test_all_errors_are_shown_at_once_each_at_its_place(write: Write) -> None:
    write(SIMULATED, "base.yaml")
    caught = errors(write(WRONG), "agent.clip_range=wide", "agent.gama=0.9")
    agent = "kind, steps, envs, eval_every, checkpoint_every, learning_rate, final_learning_rate, n_steps, batch_size, "
    agent += (
        "n_epochs, gamma, gae_lambda, clip_range, ent_coef, vf_coef, max_grad_norm, target_kl, net_arch, activation, "
        "device"
    )
    data = ", ".join(SimulatedMarket.model_fields)
    reward = "expected `log_equity` or `differential_sharpe` or `drawdown`, found `drawdwn`; did you mean `drawdown`?"
    account = "a position opened after the square-off would never be closed"
    assert str(caught) == RENDERED.format(agent=agent, data=data, reward=reward, account=account)
    assert len(caught.problems) == 12


def test_a_missing_key_points_at_its_parent(write: Write) -> None:
    path = write(SIMULATED.replace("  kind: simulated\n", "").replace("agent:\n  kind: ppo", "agent:\n  envs: 2"))
    assert errors(path).problems[0].render() == (
        "error[config]: missing required key `kind` under `data`\n"
        " --> ppo.yaml:2:1\n"
        "  |\n"
        "2 | data:\n"
        "  | ^^^^ add `kind: ...` here\n"
        "  = allowed: simulated, file"
    )
    assert messages(path)[1] == "missing required key `kind` under `agent`"


def test_a_misspelt_required_key_is_one_problem(write: Write) -> None:
    assert messages(write(SIMULATED.replace("name:", "nmae:"))) == ["unknown key `nmae` at the top level"]
    assert messages(write(SIMULATED.replace("kind: simulated", "knid: simulated"))) == [
        "unknown key `knid` under `data`"
    ]


def test_a_key_in_the_wrong_section_is_sent_home(write: Write) -> None:
    (problem,) = errors(write(SIMULATED + "slippage_bps: 3\n")).problems
    assert problem.hint == "it belongs under `account` or `episode`"


def _mappings(values: dict[str, Any], route: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    found = [(route, key) for key in values]
    for key, value in values.items():
        if isinstance(value, dict):
            found += _mappings(value, (*route, key))
    return found


def _known_keys() -> list[tuple[tuple[str, ...], str]]:
    values = Experiment.model_validate(yaml.safe_load(SIMULATED.replace("1e5", "100000"))).resolved()
    return [(route, key) for route, key in _mappings(values) if len(key) >= 5]


@st.composite
def _misspellings(draw: st.DrawFn) -> tuple[tuple[str, ...], str, str]:
    """A known key with one character replaced, left out, put in, or swapped with the next."""
    route, key = draw(st.sampled_from(_known_keys()))
    at = draw(st.integers(0, len(key) - 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyzE_-7"))
    swapped = key[:at] + key[at : at + 2][::-1] + key[at + 2 :]
    wrong = draw(
        st.sampled_from(
            [key[:at] + letter + key[at + 1 :], key[:at] + key[at + 1 :], key[:at] + letter + key[at:], swapped]
        )
    )
    return route, key, wrong


@settings(max_examples=150, deadline=None)
@given(_misspellings())
def test_a_misspelt_key_is_refused_with_the_real_one_as_suggestion(
    tmp_path_factory: pytest.TempPathFactory, misspelling: tuple[tuple[str, ...], str, str]
) -> None:
    route, key, wrong = misspelling
    values = Experiment.model_validate(yaml.safe_load(SIMULATED.replace("1e5", "100000"))).resolved()
    section = values
    for step in route:
        section = section[step]
    if wrong in section:
        return
    section[wrong] = section.pop(key)
    path = tmp_path_factory.getbasetemp() / "misspelt.yaml"
    path.write_text(to_yaml(values))
    where = f"under `{'.'.join(route)}`" if route else "at the top level"
    problems = {problem.message: problem for problem in errors(path).problems}
    problem = problems[f"unknown key `{wrong}` {where}"]
    assert f"`{key}`" in problem.hint
    assert problem.place is not None
    assert problem.place.text.strip().startswith((wrong, f"'{wrong}", f'"{wrong}'))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SIMULATED)),
            st.integers(0, 4),
            st.sampled_from([*":{}[],-#&*!|>'\"%@`\t\n \\0.~?=", "\u2028", "null", "<<", "[]", "- "]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_damaged_file_loads_or_says_what_is_wrong(
    tmp_path_factory: pytest.TempPathFactory, damages: list[tuple[int, int, str]]
) -> None:
    text = SIMULATED
    for at, removed, put in damages:
        text = text[:at] + put + text[at + removed :]
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_text(text)
    found: list[Problem] = []
    try:
        load_experiment(path)
    except ConfigError as error:
        found = error.problems
    else:
        return
    assert found
    for problem in found:
        assert problem.place is not None
        assert problem.place.line is not None
        assert 1 <= problem.place.line <= len(re.split("[\n\u2028]", text))
        assert problem.message in problem.render()


# --- values that YAML or pydantic would quietly bend -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ('agent.gamma="0.9"', 'found `"0.9"`'),
        ("agent.envs=true", "found `true`"),
        ("agent.envs=2.0", "found `2.0`"),
        ("agent.gamma=.nan", "found `nan`"),
        ("agent.gamma=1e999", "found `inf`"),
        ("account.allow_short=no", "found `no`"),
        ("account.allow_short=1", "found `1`"),
        ("data.first=19359", "found `19359`"),
        ("name=5", "found `5`"),
        ("name=", "found nothing"),
        ("name=a b", "found `a b`"),
        ("agent=", "found nothing"),
        ("agent=[1]", "found a list"),
        ("agent.net_arch=8", "found `8`"),
        ("episode.bars=1", "expected an integer >= 2 or null, found `1`"),
    ],
)
def test_a_value_of_another_type_is_refused(write: Write, override: str, found: str) -> None:
    (problem,) = errors(write(SIMULATED), override).problems
    assert problem.message == f"bad value for `{override.partition('=')[0]}`"
    assert found in problem.hint
    assert problem.place is not None
    assert problem.place.text == override


# --- contradictions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.interval=1d"], ["account.product"]),
        # One broken section does not silence what two others say about each other.
        (["data.interval=1d", "agent.gamma=2"], ["account.product", "agent.gamma"]),
        (
            ["split.validation.from=2023-06-30", "split.test.from=2023-09-29"],
            ["split.validation.from", "split.test.from"],
        ),
        (["split.train.to=2022-01-01"], ["split.train"]),
        (["split.train.from=2023-01-01", "split.test.to=2024-01-01"], ["split.train.from", "split.test.to"]),
        (["agent.batch_size=300"], ["agent"]),
        (["agent.batch_size=8192"], ["agent"]),
        (["evaluation.sma.fast=30"], ["evaluation.sma"]),
        (["state.features=[rsii]"], ["state.features"]),
    ],
)
def test_values_that_contradict_each_other_are_refused(write: Write, overrides: list[str], expected: list[str]) -> None:
    found = errors(write(SIMULATED), *overrides).problems
    assert [re.findall("`([a-z_.]+)`", problem.message)[0] for problem in found] == expected


def test_contradictions_are_refused_in_code_as_well(write: Write) -> None:
    values = load_experiment(write(SIMULATED)).resolved()
    values["data"]["interval"] = "1d"
    with pytest.raises(ValueError, match="product intraday needs bars within the day"):
        Experiment.model_validate(values)


def test_the_validators_words_point_at_the_value_they_mention(write: Write) -> None:
    text = SIMULATED.replace("[classic29]", "\n    - classic29\n    - rsi: {windw: 3}")
    (problem,) = errors(write(text)).problems
    assert problem.place is not None
    assert (problem.place.line, problem.place.column, problem.place.width) == (16, 13, 5)


# --- texts that are no documents --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("name: x\ndata:\n\tkind: simulated\n", (3, 1), r"not valid YAML: found character '\t'"),
        ("name: [1, 2\nb: 3\n", (2, 2), "not valid YAML: expected ',' or ']'"),
        ('name: "abc\n', (2, 1), "not valid YAML: found unexpected end"),
        ("a: 1\n---\nb: 2\n", (2, 1), "not valid YAML: but found another document"),
        ("name: a\x07b\n", (1, 8), r"not valid YAML: the character '\x07'"),
        (b"# caf\xc3\xa9\nname: caf\xe9\n", (2, 10), "the file is not UTF-8"),
        ("", (1, 1), "the file must hold a mapping"),
        ("# only a comment\n", (1, 1), "the file must hold a mapping"),
        ("- a\n", (1, 1), "the file must hold a mapping"),
        ("name: &a [*a]\n", (1, 7), "nested deeper than 50 levels"),
        ("name: " + "[" * 3000, (1, 1), "nested deeper than 50 levels"),
        ("name: !!python/name:os.system x\n", (1, 7), "the tag `tag:yaml.org,2002:python/name:os.system` is not"),
        ("seed: !!int foo\n", (1, 7), "`foo` is not a valid int"),
        ('name: "\\ud800"\n', (1, 7), r"`\ud800` is not a valid str"),
        ("? [a, b]\n: 1\n", (1, 3), "a key must be a plain word"),
        ("extends: ppo.yaml\n", (1, 10), "`extends` runs in a circle: ppo.yaml -> ppo.yaml"),
        ("extends: nowhere.yaml\n", (1, 10), "cannot read the file that `extends` names: no such file"),
        ("extends: .\n", (1, 10), "cannot read the file that `extends` names: is a directory"),
        ('extends: "a\\0b"\n', (1, 10), "cannot read the file that `extends` names: embedded null byte"),
        ("extends: [a]\n", (1, 10), "`extends` must name one file"),
    ],
)
def test_a_text_that_is_no_document_is_refused_at_its_place(
    write: Write, text: str | bytes, place: tuple[int, int], message: str
) -> None:
    problem = errors(write(text)).problems[0]
    assert problem.message.startswith(message)
    assert problem.place is not None
    assert (problem.place.line, problem.place.column) == place
    assert len(max(problem.render().split("\n"), key=len)) < 240


def test_a_bomb_of_aliases_is_refused_early(write: Write) -> None:
    lines = ["a0: &a0 [1]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert any("more than 10000 values" in message for message in messages(write("\n".join(lines))))


def test_extends_in_a_circle_names_the_circle(write: Write) -> None:
    write("extends: deep/c.yaml\n", "b.yaml")
    write("extends: ../a.yaml\n", "deep/c.yaml")
    assert messages(write("extends: b.yaml\n", "a.yaml")) == [
        "`extends` runs in a circle: a.yaml -> b.yaml -> deep/c.yaml -> a.yaml"
    ]


def test_an_unreadable_base_hides_no_other_mistake(write: Write) -> None:
    assert messages(write("extends: nowhere.yaml\nagent: {gama: 1}\n")) == [
        "cannot read the file that `extends` names: no such file or directory",
        "unknown key `gama` under `agent`",
    ]


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r"])
def test_every_line_ending_and_a_byte_order_mark_are_read(write: Write, break_: str) -> None:
    text = "\ufeff" + (SIMULATED + "foo: 1\n").replace("\n", break_)
    (problem,) = errors(write(text)).problems
    assert problem.place is not None
    assert (problem.place.line, problem.place.text) == (23, "foo: 1")


@pytest.mark.parametrize(
    ("override", "message", "caret"),
    [
        ("gamma", "an override must read key=value or section.key=value", "gamma"),
        ("=1", "an override must read key=value or section.key=value", "=1"),
        ("agent..gamma=1", "an override must read key=value or section.key=value", "agent..gamma=1"),
        ("foo.bar=1", "unknown key `foo` at the top level", "foo"),
        ("agent.foo.bar=1", "unknown key `foo` under `agent`", "foo"),
        ("name.foo=1", "`name` holds `demo`, so it has no key `foo`", "foo"),
        ("name.foo.bar=1", "`name` holds `demo`, so it has no key `foo`", "foo"),
        ("data.symbols.3=TCS", "`data.symbols` is a list without a place `3`", "3"),
        ("data.symbols.-1=TCS", "`data.symbols` is a list without a place `-1`", "-1"),
        ("data.symbols.9.x=TCS", "`data.symbols` is a list without a place `9`", "9"),
        ("agent.net_arch.0=8", "`agent.net_arch` is not written in the file", "net_arch"),
        ("agent.gamma=[1", "not valid YAML: expected ',' or ']', but got '<stream end>'", "]"),
        ("extends=other.yaml", "`extends` cannot be overridden", "extends"),
    ],
)
def test_a_wrong_override_is_shown_with_its_text(write: Write, override: str, message: str, caret: str) -> None:
    (problem,) = errors(write(SIMULATED), override).problems
    assert problem.message == message
    assert problem.place is not None
    assert (problem.place.line, problem.place.text) == (None, override)
    marked = override[problem.place.column - 1 :][: problem.place.width]
    assert marked == (caret if caret in override else "")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_experiment(tmp_path / "nowhere.yaml")
