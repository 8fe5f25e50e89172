"""Which state a policy sees: the features, their warm-up and their hash."""

import hashlib
import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from finsense.state import indicators  # noqa: F401  (importing the families fills the registry)
from finsense.state.extension import (
    CARRIED_FOLDER,
    CarriedFiles,
    Source,
    check_trusted,
    find_indicator,
    indicator_of,
    is_reference,
    loaded_file,
    source_content,
)
from finsense.state.presets import PRESETS
from finsense.state.registry import INDICATORS, Indicator

_SHOWN = 3

# A feature's name in YAML; where it is that of a user's file, the file is relative to the YAML's.
_Name = Annotated[str, WithJsonSchema({"type": "string", "format": "indicator"})]


class Feature(BaseModel):
    """One indicator with its parameters, as it stands in a spec: every parameter is spelled out.

    Attributes:
        name: of the indicator.
        parameters: its parameters.
        source: the file that holds it; None for a built-in one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: dict[str, float]
    source: Source | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_built_in(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if values.get("source") is None:
            values.pop("source", None)
        return values

    @property
    def indicator(self) -> Indicator:
        """The registered indicator."""
        return INDICATORS[self.name] if self.source is None else indicator_of(self.source, self.name)

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names of this feature."""
        return self.indicator.columns(self.parameters)

    @property
    def lookback(self) -> int:
        """Bars before the first value that has its full window."""
        return self.indicator.lookback(self.parameters)


class StateSpec(BaseModel):
    """The state: an ordered list of features over a warm-up, stacked over a history.

    In YAML a feature is a preset's name, an indicator's name, or `indicator: {parameter: value}`; an indicator of the
    user's own is named `file.py:function`, `package.module:function` or by its entry point.

    Attributes:
        features: the features in column order, presets expanded.
        warmup: bars folded before each trading session; the state needs no bar before them.
        history: how many of the last market rows are stacked into one observation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    warmup: Annotated[int, Field(ge=1, le=100_000)] = 150
    history: Annotated[int, Field(ge=1, le=1000)] = 1

    @field_validator(
        "features", mode="before", json_schema_input_type=list[_Name | Feature | dict[_Name, dict[str, float]]]
    )
    @classmethod
    def _expand(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"features is a list of presets and indicators, found {value!r}")
        if not value:
            raise ValueError("features must name at least one preset or indicator, found an empty list")
        carried = info.context if isinstance(info.context, CarriedFiles) else None
        return tuple(feature for entry in value for feature in _features(entry, carried))

    @model_validator(mode="after")
    def _files_have_their_own_names(self) -> Self:
        """In a bundle they lie in one folder, and some file systems do not tell A from a."""
        hashes: dict[str, set[str]] = {}
        for source in self.sources:
            hashes.setdefault(source.file.name.casefold(), set()).add(source.sha256)
        repeated = [name for name, found in hashes.items() if len(found) > 1]
        if repeated:
            raise ValueError(f"two different files of indicators are named {repeated[0]}; rename one of them")
        return self

    @model_validator(mode="after")
    def _warmup_covers_every_window(self) -> Self:
        repeated = [feature for place, feature in enumerate(self.features) if self._standing_twice(place)]
        if repeated:
            raise ValueError(_repetition(repeated))
        longest = max(self.features, key=lambda feature: feature.lookback)
        needed = longest.lookback + self.history - 1
        if self.warmup < needed:
            raise ValueError(
                f"warmup must be at least {needed} bars: `{longest.name}` looks back {longest.lookback} bars "
                f"and history is {self.history}; found warmup {self.warmup}"
            )
        return self

    def _standing_twice(self, place: int) -> bool:
        """Whether a feature gives a column that one before it gives already."""
        before = {column for feature in self.features[:place] for column in feature.columns}
        return not before.isdisjoint(self.features[place].columns)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the market columns, one row of the history."""
        return tuple(column for feature in self.features for column in feature.columns)

    @property
    def width(self) -> int:
        """Number of market values in one observation: history x columns."""
        return self.history * len(self.columns)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files of the user's own indicators, each once."""
        return tuple(dict.fromkeys(feature.source for feature in self.features if feature.source is not None))

    def carried_files(self) -> dict[str, bytes]:
        """Path in a bundle -> content of each file of the user's own indicators."""
        return {f"{CARRIED_FOLDER}/{source.file.name}": source_content(source) for source in self.sources}

    def as_carried(self) -> Self:
        """The same state with the user's files at their places in a bundle; it has the same hash."""
        return self._with_files({source: Path(CARRIED_FOLDER, source.file.name) for source in self.sources})

    def canonical(self) -> str:
        """Canonical JSON of the spec; equal specs give equal text, wherever the user's files lie."""
        plain = self._with_files({source: Path(source.file.name) for source in self.sources})
        return json.dumps(plain.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def _with_files(self, files: Mapping[Source, Path]) -> Self:
        moved = [
            feature.model_copy(update={"source": feature.source.model_copy(update={"file": files[feature.source]})})
            if feature.source is not None
            else feature
            for feature in self.features
        ]
        return self.model_copy(update={"features": tuple(moved)})


def _repetition(repeated: list[Feature]) -> str:
    """What is wrong with features whose columns stand in the list already."""
    columns = _first_of([column for feature in repeated for column in feature.columns])
    names = _first_of([f"`{feature.name}`" for feature in repeated])
    return (
        f"the same column stands twice: {columns}; among the features {names} stands more than once, by its name or "
        f"within a preset: leave the repetition out"
    )


def _first_of(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - _SHOWN} more" if len(unique) > _SHOWN else ""
    return ", ".join(unique[:_SHOWN]) + more


def _features(entry: Any, carried: CarriedFiles | None) -> list[Feature]:
    """The features that one entry of the YAML list stands for."""
    if isinstance(entry, Feature):
        return _features(dict(entry), carried)
    if isinstance(entry, str):
        if entry in PRESETS:
            return [feature for name, given in PRESETS[entry] for feature in [_feature(name, given)]]
        return [_feature(entry, {})]
    if isinstance(entry, dict) and {"name", "parameters"} <= entry.keys() <= {"name", "parameters", "source"}:
        name, given, source = entry["name"], entry["parameters"], entry.get("source")
        if source is None:
            return [_feature(name, given)]
        _check_form(name, given)
        return [_own_feature(Source.model_validate(source), name, given, carried)]
    if isinstance(entry, dict) and len(entry) == 1:
        name, given = next(iter(entry.items()))
        return [_feature(name, given or {})]
    several = "; its parameters stand indented below its name" if isinstance(entry, dict) else ""
    raise ValueError(f"a feature is a name or `name: {{parameter: value}}`, found {entry!r}{several}")


def _check_form(name: Any, given: Any) -> None:
    if not isinstance(name, str) or not isinstance(given, dict):
        raise ValueError(f"a feature is a name or `name: {{parameter: value}}`, found {name!r}: {given!r}")


def _feature(name: str, given: dict[str, float]) -> Feature:
    _check_form(name, given)
    if name in INDICATORS:
        feature = Feature(name=name, parameters=_parameters(name, INDICATORS[name], given))
        if not feature.columns:
            raise ValueError(f"`{name}` has no column with parameters {feature.parameters}; choose a larger window")
        return feature
    if is_reference(name):
        source, indicator = find_indicator(name)
        return _own_feature(source, indicator.name, given, None)
    raise ValueError(unknown_name(name))


def unknown_name(name: str) -> str:
    """What to say of a name that is neither an indicator nor a preset, with the nearest ones."""
    if name.endswith(".py"):
        return f"`{name}` names a file; name the indicator in it too: `{name}:function`"
    near = get_close_matches(name.casefold(), sorted([*INDICATORS, *PRESETS]), n=3)
    hint = f"did you mean {' or '.join(f'`{one}`' for one in near)}? " if near else ""
    return f"unknown indicator or preset `{name}`; {hint}`finsense features list` has them all"


def _own_feature(source: Source, name: str, given: dict[str, float], carried: CarriedFiles | None) -> Feature:
    """A feature of the user's own, which has kept the laws with these very parameters."""
    indicator = indicator_of(source, name, carried)
    if carried is not None:
        source = source.model_copy(update={"file": loaded_file(source)})
    parameters = _parameters(name, indicator, given)
    check_trusted(source, name, parameters)
    return Feature(name=name, parameters=parameters, source=source)


def _parameters(name: str, indicator: Indicator, given: Mapping[str, float]) -> dict[str, float]:
    """Every parameter of an indicator: those given, and the defaults of the others."""
    defaults = indicator.defaults
    for key, value in given.items():
        if key not in defaults:
            near = get_close_matches(str(key), list(defaults), n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"unknown parameter `{key}` of `{name}`{hint} known: {', '.join(defaults) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10_000:
            raise ValueError(f"parameter `{key}` of `{name}` must be above 0 and at most 10000, found {value!r}")
        if key.endswith("window") and value != int(value):
            raise ValueError(f"parameter `{key}` of `{name}` counts bars and must be whole, found {value!r}")
    return {key: float(given.get(key, default)) for key, default in defaults.items()}
