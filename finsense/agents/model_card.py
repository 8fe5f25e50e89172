"""The model card: what a bundle is, what it saw, what it did, and what it is not."""

from typing import Any

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import OrderActions
from finsense.config import Experiment
from finsense.market.simulate import SimulatedMarket
from finsense.model.manifest import Forecast, Manifest, Selection

# How a kind is written where its letters are no initials.
_NAMES = {"transformer": "Transformer", "xgboost": "XGBoost"}


def model_card(manifest: Manifest, experiment: Experiment) -> str:
    """The card, markdown."""
    sections = {
        "Purpose": _purpose(manifest, experiment),
        "Data": _data(manifest, experiment),
        "What it sees": _state(manifest),
        "What it may do": _actions(manifest),
        "Charges": _charges(manifest),
        "Training": _training(manifest, experiment),
        **({} if manifest.forecast is None else _forecast(manifest.forecast, manifest)),
        "Validation": _validation(manifest),
        **({"How it was chosen": _selection(selection)} if (selection := manifest.provenance.selection) else {}),
        "What it is not": _not(experiment),
        "Hashes and versions": _hashes(manifest),
    }
    body = "\n".join(f"## {title}\n\n{text.rstrip()}\n" for title, text in sections.items())
    return f"# Model card: {manifest.name}\n\n{body}"


def _purpose(manifest: Manifest, experiment: Experiment) -> str:
    market = "a simulated market" if isinstance(experiment.data, SimulatedMarket) else "NSE bars"
    name = _NAMES.get(manifest.kind, manifest.kind.upper())
    return (
        f"A masked {name} policy that decides once per {manifest.interval} bar of "
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
    scaled = "Scaled with mean and deviation of the training span."
    if manifest.kind == "xgboost":
        scaled = "Not scaled: a tree only asks whether a value lies below another."
    return (
        f"{spec.history} x {len(manifest.columns)} market values and {len(ACCOUNT_FEATURES)} of the account. Each "
        f"session is warmed up with the {spec.warmup} bars before it. {scaled}\n\n"
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
    paid = "The reward is paid after" if manifest.forecast is None else "Labels and decision rule count"
    return f"NSE and broker charges with the rates of {dated}, times {costs.scale:g}. {paid} charges."


def _training(manifest: Manifest, experiment: Experiment) -> str:
    if manifest.forecast is None:
        told = {f"reward {name}": value for name, value in experiment.reward.model_dump().items()}
        told["steps trained"] = manifest.provenance.steps
    else:
        trained = manifest.forecast.calibration["trained"]
        told = {"examples": trained["rows"], "rows seen in all": manifest.provenance.steps}
        told["best epoch or round"] = trained["best_epoch"]
    values = {**experiment.agent.model_dump(mode="json"), "seed": experiment.seed, **told}
    return _table(("setting", "value"), list(values.items()))


def _forecast(forecast: Forecast, manifest: Manifest) -> dict[str, str]:
    """The sections that only a supervised model has."""
    return {
        "What it forecasts": _labels(forecast, manifest),
        "How good the forecast is": _calibration(forecast),
        "From forecast to action": _decision(forecast),
    }


def _labels(forecast: Forecast, manifest: Manifest) -> str:
    rule = ", ".join(f"{name} {value}" for name, value in forecast.label.items())
    trained, measured = (forecast.calibration[name] for name in ("trained", "measured"))
    rows = [
        (name, f"{trained['class_shares'][name]:.1%}", f"{measured['shares'][name]:.1%}") for name in forecast.classes
    ]
    few = len(forecast.columns) < len(manifest.columns)
    read = f"Of the columns above it reads: {', '.join(f'`{name}`' for name in forecast.columns)}.\n\n" if few else ""
    return (
        f"Label: {rule}. The return runs from the next bar's open, where an order would fill.\n\n{read}"
        f"{_table(('class', 'share of the training labels', 'of those it was measured on'), rows)}"
    )


def _calibration(forecast: Forecast) -> str:
    found = forecast.calibration
    measured = found["measured"]
    rows: list[tuple[Any, ...]] = [("log-loss", *(f"{measured[when]['log_loss']:.5f}" for when in ("before", "after")))]
    for curve in measured["after"]["calibration_error"]:
        errors = (f"{measured[when]['calibration_error'][curve]:.4f}" for when in ("before", "after"))
        rows.append((f"calibration error, {'most probable class' if curve == 'top' else curve}", *errors))
    fitted = ", ".join(f"{name} {_figure(value)}" for name, value in found["fitted"].items())
    return (
        f"Calibrated by {found['method']} ({fitted}) on {found['rows']} labels of the validation span's first half; "
        f"measured on {measured['rows']} of its second half, which fitted no calibration. When to stop training was "
        "chosen on the whole validation span, so that even these figures flatter a little.\n\n"
        f"{_table(('figure', 'before calibration', 'after'), rows)}\n"
        f"Accuracy {_interval(measured['accuracy'])}; always `{measured['majority']}`, the most frequent class of "
        f"training, has {measured['accuracy_of_majority']:.1%}. Difference {_interval(measured['above_majority'])}. "
        "Intervals: 95 %, whole blocks of time drawn anew."
    )


def _interval(estimate: dict[str, float | None]) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    between = "no interval, too few rows" if low is None or high is None else f"{low:.1%} to {high:.1%}"
    return f"{value:.1%} ({between})"


def _decision(forecast: Forecast) -> str:
    rule = forecast.decision
    trip = rule["round_trip"]
    if "moves" in rule:
        moves = ", ".join(f"{name} {move:+.3%}" for name, move in rule["moves"].items())
        move = f"the sum over the classes of probability x mean forward return in training ({moves})"
    else:
        move = (
            f"{rule['slope']:.3f} x the forecast return (the slope of true on forecast returns, by calibration labels)"
        )
    lines = [
        f"The expected move is {move}. A round trip, charges and slippage, costs {trip:.3%}, the median over the "
        f"validation labels. Beyond +{trip:.3%} it chooses `{rule['long']}`, beyond -{trip:.3%} `{rule['short']}`, "
        f"between the two `{rule['hold']}`; what the mask forbids it does not do."
    ]
    if rule["limits"] is not None:
        limits, rate = rule["limits"], rule["abstain_error_rate"]
        lines.append(
            f"Conformal abstention at an error rate of {rate:.1%}: it goes long only where the probability of down is "
            f"below {limits['down']:.1%}, short only where that of up is below {limits['up']:.1%}. So of all falls at "
            f"most {rate:.1%} are bought, as far as later bars are like those of the validation span."
        )
    lines.append(
        f"On the second half of the validation span it wanted to go long at {rule['share_long']:.1%} of the bars and "
        f"short at {rule['share_short']:.1%}; the expected move was {rule['mean_move']:.3%} in the mean of its size, "
        f"{rule['largest_move']:.3%} at most."
    )
    return "\n\n".join(lines)


def _validation(manifest: Manifest) -> str:
    rows = [(name, _figure(value)) for name, value in manifest.validation.items()]
    first, last = manifest.provenance.spans["validation"]
    by = "`log_return`" if manifest.forecast is None else "the loss, and the decision rule calibrated,"
    return (
        f"{first} to {last}, one account per symbol from the first bar to the last, deterministic, under masks, after "
        f"charges; means over the symbols. The weights were chosen by {by} on this very span, so these figures "
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
