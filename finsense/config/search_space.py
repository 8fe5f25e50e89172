"""A search over an experiment file: the space checked against the models, and the experiment of each trial."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finsense.config.errors import ConfigError, Place, Problem
from finsense.config.experiment import Experiment
from finsense.config.loading import LoadedExperiment, read_experiment
from finsense.config.schema import Schema, child
from finsense.config.search import Dimension, Search
from finsense.config.syntax import Node

# A value that only goes with other values than the file's is tried beside this many draws of those.
_DRAWS = 64


@dataclass(frozen=True)
class SearchPlan:
    """A search whose space was found to fit its experiment.

    Attributes:
        path: the experiment's file.
        overrides: of the file, as `agent.gamma=0.9`.
        experiment: what they describe.
        search: its section `tune`.
        integers: keys of the space that take whole numbers.
    """

    path: str
    overrides: tuple[str, ...]
    experiment: Experiment
    search: Search
    integers: frozenset[str]
    _root: Node

    def trial(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment with these values in place of its own, and without a search.

        Raises:
            ConfigError: the values do not go together; each problem names the key of the space.
        """
        texts = [override(key, value) for key, value in values.items()]
        try:
            experiment = read_experiment(self.path, [*self.overrides, *texts]).experiment
        except ConfigError as error:
            by_text = dict(zip(texts, values, strict=True))
            raise ConfigError([_in_space(one, by_text, texts, self._root) for one in error.problems]) from error
        return experiment.model_copy(update={"tune": None})


def override(key: str, value: Any) -> str:
    """The text that `--set` takes."""
    return f"{key}={json.dumps(value)}"


def read_search(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> SearchPlan:
    """The search that an experiment file describes, every end of every range and every choice tried on the models.

    Raises:
        ConfigError: the experiment or its space is wrong; lists everything that is.
        OSError: the file cannot be read.
    """
    loaded = read_experiment(path, overrides)
    root, search = loaded.document.root, loaded.experiment.tune
    if search is None:
        message = "there is nothing to tune: the experiment has no section `tune`"
        hint = "add `tune: {space: {agent.learning_rate: {low: 1e-4, high: 1e-2, log: true}}}`"
        place = Place(str(path), 1, 1, 1, "", root.place.directory)
        raise ConfigError([Problem(message, replace(root.place, width=1) if root.place.text else place, hint)])
    plan = SearchPlan(
        path=str(path),
        overrides=tuple(overrides),
        experiment=loaded.experiment,
        search=search,
        integers=frozenset(_integer_keys(search, loaded)),
        _root=root,
    )
    problems = _problems(plan)
    if problems:
        raise ConfigError(problems)
    return plan


def _problems(plan: SearchPlan) -> list[Problem]:
    """Everything in the space that no trial could use."""
    refused: list[tuple[str, Any, ConfigError]] = []
    fitting: dict[str, list[Any]] = {key: [] for key in plan.search.space}
    for key, value in _tried(plan):
        try:
            plan.trial({key: value})
            fitting[key].append(value)
        except ConfigError as error:
            refused.append((key, value, error))
    generator = np.random.default_rng(0)
    found: dict[tuple[str, str], Problem] = {}
    for key, value, refusal in refused:
        others = {name: values for name, values in fitting.items() if name != key and values}
        if not _fits_somewhere(plan, key, value, others, generator):
            found |= {(str(one.place), one.message): one for one in refusal.problems}
    return list(found.values())


def _tried(plan: SearchPlan) -> Iterator[tuple[str, Any]]:
    for key, dimension in plan.search.space.items():
        for value in _ends(dimension):
            yield key, int(value) if key in plan.integers and isinstance(value, float) else value


def _ends(dimension: Dimension) -> Sequence[Any]:
    return (dimension.low, dimension.high) if dimension.choices is None else dimension.choices


def _fits_somewhere(
    plan: SearchPlan, key: str, value: Any, others: Mapping[str, list[Any]], generator: np.random.Generator
) -> bool:
    draws = range(_DRAWS if others else 0)
    combinations = {tuple(int(generator.integers(len(values))) for values in others.values()) for _ in draws}
    for drawn in sorted(combinations):
        beside = {name: values[index] for (name, values), index in zip(others.items(), drawn, strict=True)}
        try:
            plan.trial({**beside, key: value})
        except ConfigError:
            continue
        return True
    return False


def _integer_keys(search: Search, loaded: LoadedExperiment) -> Iterator[str]:
    """Keys whose place in the experiment takes whole numbers, where the range itself is of whole numbers."""
    schema, root = Schema(Experiment.model_json_schema()), loaded.document.root
    for key, dimension in search.space.items():
        types = {candidate.get("type") for candidate in schema.at(tuple(key.split(".")), root)}
        ends = [value for value in (dimension.low, dimension.high, dimension.step) if value is not None]
        if ends and "integer" in types and "number" not in types and all(value == int(value) for value in ends):
            yield key


def _in_space(problem: Problem, by_text: Mapping[str, str], texts: Sequence[str], root: Node) -> Problem:
    """A problem of a trial's overrides as one of the space's entry."""
    place = problem.place
    if place is not None and place.line is None and place.text in by_text:
        key = by_text[place.text]
        node: Node | None = root
        for step in ("tune", "space", key):
            node = child(node, step)
        assert node is not None
        return replace(problem, message=f"`tune.space.{key}`: {problem.message}", place=node.anchor)
    return replace(problem, notes=(*problem.notes, f"with {', '.join(texts)} of `tune.space`"))
