"""Which state a policy sees: the features, their warm-up and their hash."""

import hashlib
import json
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from finsense.state import indicators  # noqa: F401  (importing the families fills the registry)
from finsense.state.presets import PRESETS
from finsense.state.registry import INDICATORS, Indicator


class Feature(BaseModel):
    """One indicator with its parameters, as it stands in a spec: every parameter is spelled out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: dict[str, float]

    @property
    def indicator(self) -> Indicator:
        """The registered indicator."""
        return INDICATORS[self.name]

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

    In YAML a feature is a preset's name, an indicator's name, or `indicator: {parameter: value}`.

    Attributes:
        features: the features in column order, presets expanded.
        warmup: bars folded before each trading session; the state needs no bar before them.
        history: how many of the last market rows are stacked into one observation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    warmup: Annotated[int, Field(ge=1, le=100_000)] = 150
    history: Annotated[int, Field(ge=1, le=1000)] = 1

    @field_validator("features", mode="before", json_schema_input_type=list[str | dict[str, dict[str, float]]])
    @classmethod
    def _expand(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"features is a list of presets and indicators, found {value!r}")
        return tuple(feature for entry in value for feature in _features(entry))

    @model_validator(mode="after")
    def _warmup_covers_every_window(self) -> Self:
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise ValueError(f"the same column stands twice: {', '.join(repeated)}; remove one of the features")
        longest = max(self.features, key=lambda feature: feature.lookback)
        needed = longest.lookback + self.history - 1
        if self.warmup < needed:
            raise ValueError(
                f"warmup must be at least {needed} bars: `{longest.name}` looks back {longest.lookback} bars "
                f"and history is {self.history}; found warmup {self.warmup}"
            )
        return self

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the market columns, one row of the history."""
        return tuple(column for feature in self.features for column in feature.columns)

    @property
    def width(self) -> int:
        """Number of market values in one observation: history x columns."""
        return self.history * len(self.columns)

    def canonical(self) -> str:
        """Canonical JSON of the spec; equal specs give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def _features(entry: Any) -> list[Feature]:
    """The features that one entry of the YAML list stands for."""
    if isinstance(entry, Feature):
        return _features({"name": entry.name, "parameters": entry.parameters})
    if isinstance(entry, str):
        if entry in PRESETS:
            return [feature for name, given in PRESETS[entry] for feature in [_feature(name, given)]]
        return [_feature(entry, {})]
    if isinstance(entry, dict) and set(entry) == {"name", "parameters"}:
        return [_feature(entry["name"], entry["parameters"])]
    if isinstance(entry, dict) and len(entry) == 1:
        name, given = next(iter(entry.items()))
        return [_feature(name, given or {})]
    raise ValueError(f"a feature is a name or `name: {{parameter: value}}`, found {entry!r}")


def _feature(name: str, given: dict[str, float]) -> Feature:
    if not isinstance(name, str) or not isinstance(given, dict):
        raise ValueError(f"a feature is a name or `name: {{parameter: value}}`, found {name!r}: {given!r}")
    if name not in INDICATORS:
        known = sorted([*INDICATORS, *PRESETS])
        near = get_close_matches(str(name), known, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise ValueError(f"unknown indicator or preset `{name}`{hint} known: {', '.join(known)}")
    defaults = INDICATORS[name].defaults
    for key, value in given.items():
        if key not in defaults:
            near = get_close_matches(str(key), list(defaults), n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"unknown parameter `{key}` of `{name}`{hint} known: {', '.join(defaults) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10_000:
            raise ValueError(f"parameter `{key}` of `{name}` must be above 0 and at most 10000, found {value!r}")
        if key.endswith("window") and value != int(value):
            raise ValueError(f"parameter `{key}` of `{name}` counts bars and must be whole, found {value!r}")
    feature = Feature(name=name, parameters={key: float(given.get(key, default)) for key, default in defaults.items()})
    if not feature.columns:
        raise ValueError(f"`{name}` has no column with parameters {feature.parameters}; choose a larger window")
    return feature
