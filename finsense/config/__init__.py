"""Experiments: a YAML file and overrides become validated, frozen models with a hash, or a list of all problems."""

from finsense.config.agents import Agent, DqnAgent, PpoAgent
from finsense.config.errors import ConfigError, Place, Problem
from finsense.config.experiment import (
    DataSource,
    DifferentialSharpeReward,
    DrawdownReward,
    Episode,
    Evaluation,
    Experiment,
    LogEquityReward,
    Reward,
    SmaCross,
    Span,
    Split,
)
from finsense.config.loading import LoadedExperiment, experiment_schema, load_experiment, read_experiment
from finsense.config.search import Dimension, Search
from finsense.config.search_space import SearchPlan, read_search

__all__ = [
    "Agent",
    "ConfigError",
    "DataSource",
    "DifferentialSharpeReward",
    "Dimension",
    "DqnAgent",
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
    "Search",
    "SearchPlan",
    "SmaCross",
    "Span",
    "Split",
    "experiment_schema",
    "load_experiment",
    "read_experiment",
    "read_search",
]
