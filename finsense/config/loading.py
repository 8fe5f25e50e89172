"""From a file and overrides to a validated experiment, or to everything that is wrong with them."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from finsense.config.diagnosis import CONTRADICTION, diagnose, section_errors
from finsense.config.document import Document, read_document
from finsense.config.errors import ConfigError
from finsense.config.experiment import Experiment, contradictions
from finsense.config.rendering import to_annotated_yaml, to_plain, to_yaml
from finsense.config.schema import JsonSchema, Route, Schema, child, coercions, plain
from finsense.config.syntax import Node

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class LoadedExperiment:
    """An experiment and the document it was made of.

    Attributes:
        experiment: the validated experiment.
        document: the merged tree, which knows where each value was written.
    """

    experiment: Experiment
    document: Document

    def origin(self, route: Route) -> str:
        """Where a value was written: `file:line`, `override key=value`, or `default`.

        A list whose items come from several places names them all.
        """
        node: Node | None = self.document.root
        for step in route:
            node = child(node, step)
            if node is None:
                return "default"
        places = dict.fromkeys(_places(node)) if node is not None else {}
        return ", ".join(places) or "default"

    def origins(self, *, resolved: bool = True) -> dict[str, str]:
        """Dotted key of each value -> where it was written."""
        values = self.experiment.resolved() if resolved else self.written()
        return {".".join(route): self.origin(route) for route in _leaves(values, ())}

    def written_yaml(self) -> str:
        """What the files and overrides say after merging, without defaults."""
        return to_yaml(self.written())

    def written(self) -> dict[str, Any]:
        """What the files and overrides say after merging, as plain values; paths are absolute."""
        schema = _schema(Experiment)
        values: dict[str, Any] = to_plain(plain(self.document.root, schema, schema.at((), self.document.root)))
        return values

    def annotated_yaml(self, *, resolved: bool = True) -> str:
        """The values as YAML, each with its origin in a comment."""
        values = self.experiment.resolved() if resolved else self.written()
        return to_annotated_yaml(values, self.origin)


def load_experiment(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that a YAML file and overrides such as `agent.gamma=0.9` describe.

    A relative path in a file is relative to that file; in an override, to the working directory.

    Raises:
        ConfigError: Something is wrong with it; lists everything that is.
        OSError: The file cannot be read.
    """
    return read_experiment(path, overrides).experiment


def read_experiment(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> LoadedExperiment:
    """As `load_experiment`, with the origin of each value.

    Raises:
        ConfigError: Something is wrong with it; lists everything that is.
        OSError: The file cannot be read.
    """
    document = read_document(path, overrides, _schema(Experiment).discriminators)
    return LoadedExperiment(validate(document, Experiment), document)


def load(path: str | os.PathLike[str], overrides: Sequence[str], model: type[Model]) -> Model:
    """The model that a YAML file and overrides describe; paths as in `load_experiment`.

    Raises:
        ConfigError: Something is wrong with it; lists everything that is.
        OSError: The file cannot be read.
    """
    return validate(read_document(path, overrides, _schema(model).discriminators), model)


def experiment_schema() -> JsonSchema:
    """JSON Schema of an experiment file, for editors."""
    schema = Experiment.model_json_schema()
    extends = {"type": "string", "description": "another file, relative to this one; what stands here wins"}
    schema["properties"] = {"extends": extends, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def validate(document: Document, model: type[Model]) -> Model:
    """The model that the document describes.

    Raises:
        ConfigError: The document or its values are wrong; lists everything that is.
    """
    root, schema = document.root, _schema(model)
    values = plain(root, schema, schema.at((), root))
    found = dict(coercions(root, schema))
    result: Model | None = None
    try:
        result = model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        errors = [*section_errors(error), *_contradictions_between_valid_sections(model, values)]
        found = {**diagnose(errors, root, schema, complete=document.findings.complete), **found}
    problems = [*document.findings.problems, *found.values()]
    if problems or result is None:
        raise ConfigError(problems)
    return result


def _contradictions_between_valid_sections(model: type[BaseModel], values: dict[str, Any]) -> list[dict[str, Any]]:
    """What the experiment's own validator would say, had another section not failed before it could speak."""
    if not issubclass(model, Experiment):
        return []
    sections = {}
    for name, kind in get_type_hints(model, include_extras=True).items():
        if name in values and name in model.model_fields:
            try:
                sections[name] = TypeAdapter(kind).validate_json(json.dumps(values[name]))
            except ValidationError:
                # Its own errors are in the list already.
                continue
    return [
        {"type": CONTRADICTION, "loc": where, "msg": reason, "ctx": {"reason": reason}}
        for where, reason in contradictions(sections).items()
    ]


@cache
def _schema(model: type[BaseModel]) -> Schema:
    return Schema(model.model_json_schema())


def _places(node: Node) -> list[str]:
    """Where a value was written, and where items of it were that an override replaced."""
    place = node.place
    own = f"override {place.text}" if place.line is None else str(place)
    items = node.value if isinstance(node.value, list) else []
    return [own, *(found for item in items if item.place.name != place.name for found in _places(item))]


def _leaves(values: dict[str, Any], route: tuple[str, ...]) -> list[tuple[str, ...]]:
    leaves: list[tuple[str, ...]] = []
    for key, value in values.items():
        leaves += _leaves(value, (*route, key)) if isinstance(value, dict) and value else [(*route, key)]
    return leaves
