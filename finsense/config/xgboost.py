"""The settings of boosted trees, and what goes wrong where their constraints name a column that the state lacks."""

from difflib import get_close_matches
from typing import Literal, Self

from pydantic import Field, model_validator

from finsense.config.supervised import SupervisedModel
from finsense.state.spec import StateSpec


class XgboostModel(SupervisedModel):
    """Boosted trees (Chen and Guestrin 2016) on the state's market columns; most names are XGBoost's.

    A row of the history is no more to a tree than other columns, so `state.history` is best left at 1.
    """

    kind: Literal["xgboost"]
    rounds: int = Field(default=500, ge=1, le=100_000, description="rounds of boosting, at most")
    patience: int = Field(default=30, ge=1, description="stop after so many rounds without a lower validation loss")
    checkpoint_every: int = Field(default=50, ge=1, description="rounds between checkpoints")
    max_depth: int = Field(default=4, ge=1, le=16, description="splits from root to leaf, at most")
    learning_rate: float = Field(default=0.05, gt=0, le=1, description="what a new tree's answer is multiplied by")
    subsample: float = Field(default=0.8, gt=0, le=1, description="share of the rows that a round sees")
    colsample: float = Field(default=0.8, gt=0, le=1, description="share of the columns that a tree sees")
    min_child_weight: float = Field(default=1.0, ge=0, description="least sum of second derivatives in a leaf")
    reg_lambda: float = Field(default=1.0, ge=0, description="pulls the leaves to 0")
    max_bin: int = Field(default=256, ge=2, le=256, description="values of a column that a split can tell apart")
    loss: Literal["squared", "pseudo_huber"] = Field(
        default="squared", description="of a forward return; pseudo_huber counts a freak return less"
    )
    monotone: dict[str, Literal[-1, 1]] = Field(
        default={}, description="column -> 1: the expected return never falls as it rises; -1: never rises"
    )

    @model_validator(mode="after")
    def _constraints_mean_something(self) -> Self:
        if self.monotone and self.label.kind != "forward_return":
            raise ValueError(
                "monotone needs label.kind forward_return: trees of three classes are constrained all alike, and then "
                f"no class's probability is monotone in {next(iter(self.monotone))}; leave monotone out, or choose "
                "that label"
            )
        return self

    @property
    def steps(self) -> int:
        """Rounds at most."""
        return self.rounds


def unknown_columns(agent: XgboostModel, state: StateSpec) -> str | None:
    """What is wrong with the columns that `monotone` names, with the nearest names; None: nothing."""
    unknown = [column for column in agent.monotone if column not in state.columns]
    if not unknown:
        return None
    near = get_close_matches(unknown[0], state.columns, n=3)
    hint = f"did you mean {' or '.join(f'`{one}`' for one in near)}? " if near else ""
    return f"no column of the state is named {', '.join(unknown[:3])}; {hint}the columns: {', '.join(state.columns)}"
