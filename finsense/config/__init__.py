"""Experiments: a YAML file and overrides become validated, frozen models with a hash, or a list of all problems."""

from finsense.config.agents import Agent, DqnAgent, PpoAgent, TradingAgent
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
from finsense.config.feature_selection import FeatureSelection
from finsense.config.labels import Direction, ForwardReturn, Label, TripleBarrier
from finsense.config.loading import LoadedExperiment, experiment_schema, load_experiment, read_experiment
from finsense.config.search import Dimension, Search
from finsense.config.search_space import SearchPlan, read_search
from finsense.config.supervised import GruModel, LstmModel, NetworkModel, SupervisedModel, TransformerModel
from finsense.config.xgboost import XgboostModel

__all__ = [
    "Agent",
    "ConfigError",
    "DataSource",
    "DifferentialSharpeReward",
    "Dimension",
    "Direction",
    "DqnAgent",
    "DrawdownReward",
    "Episode",
    "Evaluation",
    "Experiment",
    "FeatureSelection",
    "ForwardReturn",
    "GruModel",
    "Label",
    "LoadedExperiment",
    "LogEquityReward",
    "LstmModel",
    "NetworkModel",
    "Place",
    "PpoAgent",
    "Problem",
    "Reward",
    "Search",
    "SearchPlan",
    "SmaCross",
    "Span",
    "Split",
    "SupervisedModel",
    "TradingAgent",
    "TransformerModel",
    "TripleBarrier",
    "XgboostModel",
    "experiment_schema",
    "load_experiment",
    "read_experiment",
    "read_search",
]
