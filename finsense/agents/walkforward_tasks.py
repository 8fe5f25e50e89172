"""What the workers of a walk-forward do, train and judge, and the records that they leave for its report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finsense.agents.crew import Line
from finsense.agents.progress import TrainingInterrupted
from finsense.agents.run_folder import BUNDLE
from finsense.agents.run_record import read_json, write_json
from finsense.agents.run_task import train_task
from finsense.config import Experiment
from finsense.evaluation.backtest import Setting, backtest
from finsense.evaluation.baselines import run_baselines
from finsense.evaluation.walkforward import Account
from finsense.market.costs import ChargeRules
from finsense.model.bundle import load_bundle

TEST, BASELINES = "test.json", "baselines.json"
# The charges of the config, and twice them; the policy is the same, it was trained under the former.
CHARGE_LEVELS = (1, 2)


def agent_task(line: Line, values: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """The task of a worker: train what is missing of a run, then judge its exported policy on the test span, once.

    Args:
        line: to the crew that gave the task.
        values: `Experiment.resolved()`.
        run_dir: of the run; test.json there holds the accounts.

    Returns:
        What result.json holds.

    Raises:
        As `train_task`, and BundleError: the bundle does not verify.
    """
    result = train_task(line, values, run_dir)
    if (run_dir / TEST).exists():
        return result
    experiment = _experiment(values)
    policy, span = load_bundle(run_dir / BUNDLE).policy, experiment.split.test
    bars = experiment.data.load().values()
    accounts = {}
    for level in CHARGE_LEVELS:
        setting = _setting(experiment, level)
        reports = [backtest("agent", policy, one, setting, span.first, span.last) for one in bars]
        accounts[str(level)] = [Account.of(one, setting.account.balance_paise).as_dict() for one in reports]
    write_json(run_dir / TEST, {"charges": accounts})
    return result


def baselines_task(line: Line, values: Mapping[str, Any], path: Path) -> None:
    """The task of a worker: judge the baselines on the test span of a fold; arguments as of `agent_task`."""
    if line.stop_asked():
        raise TrainingInterrupted("stopped before it began")
    experiment = _experiment(values)
    span, judged = experiment.split.test, experiment.evaluation
    bars = experiment.data.load().values()
    terms = {"seed": judged.seed, "fast": judged.sma.fast, "slow": judged.sma.slow}
    accounts: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for level in CHARGE_LEVELS:
        setting = _setting(experiment, level)
        accounts[str(level)] = {}
        for one in bars:
            for found in run_baselines(one, setting, span.first, span.last, **terms):
                account = Account.of(found, setting.account.balance_paise).as_dict()
                accounts[str(level)].setdefault(found.name, []).append(account)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"charges": accounts})


def read_agent(run_dir: Path, level: int) -> list[Account]:
    """The accounts that `agent_task` left, one per symbol, at one level of charges.

    Raises:
        RunError: the record is missing or damaged.
    """
    return [Account.from_dict(one) for one in read_json(run_dir / TEST)["charges"][str(level)]]


def read_baselines(path: Path, level: int) -> dict[str, list[Account]]:
    """Name of the baseline -> the accounts that `baselines_task` left; otherwise as `read_agent`."""
    found = read_json(path)["charges"][str(level)]
    return {name: [Account.from_dict(one) for one in accounts] for name, accounts in found.items()}


def _setting(experiment: Experiment, level: int) -> Setting:
    costs = ChargeRules(as_of=experiment.costs.as_of, scale=experiment.costs.scale * level)
    return Setting(experiment.state, experiment.account, costs, experiment.evaluation.sessions_per_year)


def _experiment(values: Mapping[str, Any]) -> Experiment:
    return Experiment.model_validate_json(json.dumps(values))
