"""The supervised models' settings: what they all have in common, and the three networks."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finsense.config.feature_selection import FeatureSelection
from finsense.config.labels import Label


class SupervisedModel(BaseModel):
    """What every supervised model is told: what it forecasts, how its examples weigh, how a forecast becomes an action.

    A step of one is a pass over its training rows: an epoch of a network, a round of boosting. Each is followed by a
    look at the validation span.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    label: Label = Field(description="what is forecast")
    class_weights: Literal["balanced", "none"] = Field(
        default="none", description="balanced: every class weighs the same in the loss, however rare it is"
    )
    uniqueness_weights: bool = Field(
        default=True, description="an example weighs less, the more of its bars other examples' labels look at too"
    )
    calibration: Literal["temperature", "isotonic"] = Field(
        default="temperature", description="of the probabilities, on the validation span"
    )
    abstain_error_rate: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="conformal abstention: how often the true direction may be ruled out; null: off"
    )
    warm_start: Path | None = Field(default=None, description="an earlier bundle to start from; null starts afresh")
    select: FeatureSelection | None = Field(default=None, description="use the stable columns only; null uses all")

    @property
    def rollout_steps(self) -> int:
        """Steps between two looks at the validation span."""
        return 1

    @property
    def eval_every(self) -> int:
        """Likewise."""
        return 1


class NetworkModel(SupervisedModel):
    """What the three networks have in common: how they are trained."""

    epochs: int = Field(default=50, ge=1, le=100_000, description="passes over the training rows, at most")
    patience: int = Field(default=5, ge=1, description="stop after so many epochs without a lower validation loss")
    batch_size: int = Field(default=256, ge=1, description="rows of one gradient step")
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    final_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="reached linearly in the last epoch; null for no change"
    )
    weight_decay: float = Field(default=1e-2, ge=0, description="decoupled, as in AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of values that are set to 0 while training")

    @property
    def steps(self) -> int:
        """Epochs at most."""
        return self.epochs


class LstmModel(NetworkModel):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) over the last `state.history` rows."""

    kind: Literal["lstm"]
    hidden: int = Field(default=64, ge=1, le=4096, description="memory cells of a layer")
    layers: int = Field(default=1, ge=1, le=16)


class GruModel(NetworkModel):
    """Gated recurrent units (Cho et al. 2014) over the last `state.history` rows."""

    kind: Literal["gru"]
    hidden: int = Field(default=64, ge=1, le=4096, description="units of a layer")
    layers: int = Field(default=1, ge=1, le=16)


class TransformerModel(NetworkModel):
    """A Transformer encoder (Vaswani et al. 2017), normalised before each block, over the last `state.history` rows."""

    kind: Literal["transformer"]
    width: int = Field(default=32, ge=2, le=4096, description="values per row inside the encoder")
    heads: int = Field(default=4, ge=1, description="attention heads; they divide the width")
    layers: int = Field(default=2, ge=1, le=64)
    feedforward: int = Field(default=64, ge=1, le=65_536, description="hidden values of each feed-forward block")
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width ({self.width}), found {self.heads}")
        if self.width % 2:
            raise ValueError(f"width must be even: positions are pairs of sine and cosine, found {self.width}")
        return self
