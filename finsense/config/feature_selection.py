"""How columns of the state are chosen for a supervised model: those whose importance lasts over time."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# Student's interval over folds is tabled that far (evaluation/dependence.py).
_MOST_FOLDS = 16


class FeatureSelection(BaseModel):
    """Keep the columns that stay important over purged folds of the training span; the model is fitted once per fold.

    A column is stable where it is among the `top` and lowers the loss of unseen rows in at least `share` of the folds,
    and by more than chance would (5 % for all columns together).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["permutation", "gain", "gradients"] = Field(
        default="permutation", description="gain: XGBoost alone; gradients: networks alone"
    )
    folds: int = Field(default=8, ge=5, le=_MOST_FOLDS, description="parts of the training span, each judged once")
    embargo: float = Field(
        default=0.01, ge=0, lt=0.5, description="fraction of the training span left out after a judged fold"
    )
    top: int = Field(default=10, ge=1, le=10_000, description="first places that count as important in a fold")
    share: float = Field(default=0.8, gt=0.5, le=1, description="of the folds in which a stable column is among them")
    at_least: int = Field(
        default=5, ge=1, le=10_000, description="columns kept; the next best fill up where fewer are stable"
    )
