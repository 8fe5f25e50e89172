"""Experiment files that the tests of the configuration start from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from finsense.config import ConfigError, load_experiment

SIMULATED = """\
name: demo
data:
  kind: simulated
  model: mean_reversion
  symbols: [AAA, BBB]
  first: 2023-01-02
  last: 2023-12-29
  seed: 1
split:
  train: {from: 2023-01-02, to: 2023-06-30}
  validation: {from: 2023-07-03, to: 2023-09-29}
  test: {from: 2023-10-03, to: 2023-12-29}
state:
  features: [classic29]
account:
  balance: 50000
  product: intraday
  actions: {scheme: orders, size: {kind: shares, shares: 10}}
agent:
  kind: ppo
  learning_rate: 3e-4
  steps: 1e5
"""
FROM_FILE = SIMULATED.replace(
    SIMULATED[SIMULATED.index("data:") : SIMULATED.index("split:")],
    "data: {kind: file, path: bars/reliance.parquet, symbols: [RELIANCE], interval: 5m}\n",
)

Write = Callable[..., Path]


def write_file(text: str | bytes, name: str = "ppo.yaml") -> Path:
    """Write a file into the working directory and give its relative path, as a user would."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def errors(path: Path, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    return caught.value


def messages(path: Path, *overrides: str) -> list[str]:
    return [problem.message for problem in errors(path, *overrides).problems]
