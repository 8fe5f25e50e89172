"""The model card: what a bundle is, what it saw, what it did, and what it is not."""

from typing import Any

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import OrderActions
from finsense.config import Experiment
from finsense.market.simulate import SimulatedMarket
from finsense.model.manifest import Manifest, Selection


def model_card(manifest: Manifest, experiment: Experiment) -> str:
    """The card, markdown."""
    sections = {
        "Purpose": _purpose(manifest, experiment),
        "Data": _data(manifest, experiment),
        "What it sees": _state(manifest),
        "What it may do": _actions(manifest),
        "Charges": _charges(manifest),
        "Training": _training(manifest, experiment),
        "Validation": _validation(manifest),
        **({"How it was chosen": _selection(selection)} if (selection := manifest.provenance.selection) else {}),
        "What it is not": _not(experiment),
        "Hashes and versions": _hashes(manifest),
    }
    body = "\n".join(f"## {title}\n\n{text.rstrip()}\n" for title, text in sections.items())
    return f"# Model card: {manifest.name}\n\n{body}"


def _purpose(manifest: Manifest, experiment: Experiment) -> str:
    market = "a simulated market" if isinstance(experiment.data, SimulatedMarket) else "NSE bars"
    return (
        f"A masked {manifest.kind.upper()} policy that decides once per {manifest.interval} bar of "
        f"{', '.join(manifest.symbols)} on {market}: at the close of a bar it chooses an action, which fills at the "
        "next bar's open. Research software."
    )


def _data(manifest: Manifest, experiment: Experiment) -> str:
    data = experiment.data
    source = (
        f"Simulated: {data.model}, seed {data.seed}."
        if isinstance(data, SimulatedMarket)
        else f"File `{data.path.name}`."
    )
    rows = [(name, *span) for name, span in manifest.provenance.spans.items()]
    selection = manifest.provenance.selection
    touched = "was touched once, see below" if selection and selection.test is not None else "was not touched"
    return (
        f"{source}\n\n{_table(('span', 'first', 'last'), rows)}\n"
        f"The policy was fitted on the training span and chosen on the validation span; the test span {touched}."
    )


def _state(manifest: Manifest) -> str:
    spec = manifest.state
    return (
        f"{spec.history} x {len(manifest.columns)} market values and {len(ACCOUNT_FEATURES)} of the account. Each "
        f"session is warmed up with the {spec.warmup} bars before it. Scaled with mean and deviation of the training "
        "span.\n\n"
        f"- market: {', '.join(f'`{name}`' for name in manifest.columns)}\n"
        f"- account: {', '.join(f'`{name}`' for name in ACCOUNT_FEATURES)}"
    )


def _actions(manifest: Manifest) -> str:
    rules = manifest.account
    lines = [f"Actions: {', '.join(manifest.actions)}. A masked action has probability 0.\n"]
    if isinstance(rules.actions, OrderActions):
        size = ", ".join(f"{name} {value}" for name, value in rules.actions.size.model_dump().items())
        lines.append(f"- order size: {size}")
    limit = "the cash" if rules.max_position is None else f"{rules.max_position} shares"
    shorts = "allowed" if rules.allow_short else "not allowed"
    lines.append(f"- product {rules.product}, balance {rules.balance} rupees, limit {limit}, short positions {shorts}")
    if rules.product == "intraday":
        lines.append(
            f"- no new position in the last {rules.entry_cutoff_minutes} minutes of a session, squared off "
            f"{rules.square_off_minutes} minutes before its end"
        )
    share = "any share" if rules.participation is None else f"at most {rules.participation}"
    lines.append(f"- fills {rules.slippage_bps} basis points worse than the open, {share} of the bar's volume")
    return "\n".join(lines)


def _charges(manifest: Manifest) -> str:
    costs = manifest.costs
    dated = "each trade's own date" if costs.as_of is None else f"{costs.as_of}, whatever the trade's date"
    return f"NSE and broker charges with the rates of {dated}, times {costs.scale:g}. The reward is paid after charges."


def _training(manifest: Manifest, experiment: Experiment) -> str:
    values: dict[str, Any] = {
        **experiment.agent.model_dump(mode="json"),
        **{f"reward {name}": value for name, value in experiment.reward.model_dump().items()},
        "seed": experiment.seed,
        "steps trained": manifest.provenance.steps,
    }
    return _table(("setting", "value"), list(values.items()))


def _validation(manifest: Manifest) -> str:
    rows = [(name, _figure(value)) for name, value in manifest.validation.items()]
    first, last = manifest.provenance.spans["validation"]
    return (
        f"{first} to {last}, one account per symbol from the first bar to the last, deterministic, under masks, after "
        "charges; means over the symbols. The weights were chosen by `log_return` on this very span, so these figures "
        f"flatter them; the test span tells more.\n\n{_table(('figure', 'value'), rows)}\n{_conduct(manifest)}"
    )


def _conduct(manifest: Manifest) -> str:
    if not manifest.alarms:
        return "No alarm: it trades, does not churn, leaves its positions, and what it does depends on the state.\n"
    return "**Warnings**\n\n" + "\n".join(f"- `{name}`: {text}" for name, text in manifest.alarms.items())


def _selection(selection: Selection) -> str:
    states = ("finished", "pruned", "infeasible", "failed")
    counts = ", ".join(f"{selection.count(state)} {state}" for state in states if selection.count(state))
    lines = [
        f"`{selection.chosen}` of {len(selection.candidates)} {selection.among} ({counts}): {selection.reason}. "
        "Whoever judges its figures must count them all."
    ]
    if selection.interquartile_mean is not None:
        between = ""
        if selection.interval is not None:
            between = f", 95 % interval {selection.interval[0]:.6g} to {selection.interval[1]:.6g}"
        lines.append(f"Interquartile mean of `{selection.metric}`: {selection.interquartile_mean:.6g}{between}.")
    rows = [(one.name, one.state, _figure(one.log_return), _figure(one.sharpe)) for one in selection.candidates]
    lines.append(_table((selection.among, "state", "log_return", "sharpe"), rows))
    if selection.test is not None:
        found = [(name, _figure(value)) for name, value in selection.test.items()]
        lines.append(f"On the test span, after the choice and once:\n\n{_table(('figure', 'value'), found)}")
    return "\n\n".join(lines)


def _not(experiment: Experiment) -> str:
    lines = [
        "It is not investment advice and no promise of a profit: past and simulated results do not carry over.",
        "It knows only regimes like those it was trained in, and no halts, auctions, corporate actions or news.",
        "It is not for other symbols, intervals, order sizes or products than those above without a new validation.",
        "It places no orders by itself: limits, a gate and a person belong between it and a broker.",
    ]
    if isinstance(experiment.data, SimulatedMarket):
        lines.insert(0, "It learned the law of a simulated market, which no real market has.")
    return "\n".join(f"- {line}" for line in lines)


def _hashes(manifest: Manifest) -> str:
    origin = manifest.provenance
    rows = [
        ("weights", origin.weights_hash),
        ("state", manifest.state_hash),
        ("configuration", origin.config_hash),
        *((f"data {symbol}", digest) for symbol, digest in origin.data_hash.items()),
        ("git commit", origin.git_commit or "not a checkout"),
        *origin.versions.items(),
    ]
    return _table(("what", "value"), rows)


def _figure(value: Any) -> Any:
    return "undefined" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"
