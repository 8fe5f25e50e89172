"""What a bundle says of itself: bundle.json."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import AccountRules
from finsense.market.costs import ChargeRules
from finsense.state.spec import StateSpec


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(_Part):
    """Where a policy comes from.

    Attributes:
        config_hash: SHA-256 of the resolved experiment.
        data_hash: symbol -> SHA-256 of its bars.
        spans: train, validation and test -> first and last IST date (ISO), both inclusive.
        seed: of the training.
        steps: environment steps trained.
        git_commit: of the training code; empty when it was not run from a checkout.
        versions: library -> version.
        weights_hash: SHA-256 of the trained weights.
    """

    config_hash: str
    data_hash: dict[str, str]
    spans: dict[str, tuple[str, str]]
    seed: int
    steps: int
    git_commit: str
    versions: dict[str, str]
    weights_hash: str


class Manifest(_Part):
    """Everything a backtest or a live loop needs to run the policy as it was trained.

    Attributes:
        format: version of the bundle's layout.
        name: of the experiment.
        kind: the learner.
        symbols: on which it was trained.
        interval: of its bars.
        derivatives: whether its stocks were taken to have derivatives (their hours since 3 Aug 2026); None: as known.
        state: what it sees.
        state_hash: hash of `state`.
        columns: names of the market columns, as the kernels that trained it gave them.
        actions: one name per action.
        account: the account's rules.
        costs: the charges.
        sessions_per_year: for annual figures.
        provenance: where it comes from.
        validation: results on the validation span.
    """

    format: Literal[1] = 1
    name: str
    kind: str
    symbols: tuple[str, ...]
    interval: str
    derivatives: bool | None
    state: StateSpec
    state_hash: str
    columns: tuple[str, ...]
    actions: tuple[str, ...]
    account: AccountRules
    costs: ChargeRules
    sessions_per_year: int
    provenance: Provenance
    validation: dict[str, Any]

    @property
    def state_width(self) -> int:
        """F: history x market columns, and the account's features."""
        return self.state.width + len(ACCOUNT_FEATURES)
