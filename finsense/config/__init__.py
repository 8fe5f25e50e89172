"""Experiments: a YAML file and overrides become validated, frozen models with a hash, or a list of all problems."""

from finsense.config.errors import ConfigError, Place, Problem
from finsense.config.experiment import (
    DataSource,
    DifferentialSharpeReward,
    DrawdownReward,
    Episode,
    Evaluation,
    Experiment,
    LogEquityReward,
    PpoAgent,
    Reward,
    SmaCross,
    Span,
    Split,
)
from finsense.config.loading import LoadedExperiment, experiment_schema, load_experiment, read_experiment

__all__ = [
    "ConfigError",
    "DataSource",
    "DifferentialSharpeReward",
    "DrawdownReward",
    "Episode",
    "Evaluation",
    "Experiment",
    "LoadedExperiment",
    "LogEquityReward",
    "Place",
    "PpoAgent",
    "Problem",
    "Reward",
    "SmaCross",
    "Span",
    "Split",
    "experiment_schema",
    "load_experiment",
    "read_experiment",
]
