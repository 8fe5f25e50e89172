"""The model card of an ensemble: who votes, how they were weighed, and what those figures do not tell."""

from collections.abc import Mapping
from typing import Any

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.voter_record import VoterRecord
from finsense.model.manifest import EnsembleSpec, Manifest

_DECIDES = {
    "vote": "The action with the most weight behind it wins, if it is strictly ahead of every other one, HOLD among "
    "them, and at least {consensus} members chose it; else the ensemble holds.",
    "mean": "The action with the highest weighted mean of the members' probabilities wins; ties are HOLD, and with "
    "fewer than {consensus} members it holds always.",
    "stacking": "A logistic regression on all members' probabilities tells whether the price goes down, stays or goes "
    "up beyond the charges; a member that is dropped stands in with its mean, and with fewer than {consensus} members "
    "the ensemble holds always.",
}


def ensemble_card(manifest: Manifest, members: Mapping[str, Manifest], records: Mapping[str, VoterRecord]) -> str:
    """The card, markdown.

    Args:
        manifest: of the ensemble.
        members: name -> manifest of each.
        records: name -> what its votes were worth.
    """
    spec = manifest.ensemble
    assert spec is not None, "the card of an ensemble"
    sections = {
        "Purpose": f"{len(members)} policies that decide together, once per {manifest.interval} bar of "
        f"{', '.join(manifest.symbols)}: at the close of a bar they choose an action, which fills at the next bar's "
        "open. Research software.",
        "Members": _members(spec, members, records),
        "How they decide": _rule(spec),
        "How they were weighed": _measured(spec, manifest),
        "What it sees and may do": f"{manifest.state.history} x {len(manifest.columns)} market values and "
        f"{len(ACCOUNT_FEATURES)} of the account, built once per bar; a member with a shorter history reads the last "
        f"rows. Actions: {', '.join(manifest.actions)}. Rules and charges are those of every member.",
        "What it is not": "- It is not investment advice and no promise of a profit.\n"
        "- That several vote does not make them independent: they saw the same bars.\n"
        "- It places no orders by itself: limits, a gate and a person belong between it and a broker.",
        "Hashes and versions": _table(
            ("what", "value"),
            [
                *((f"member {one.name}", one.identity) for one in spec.members),
                ("state", manifest.state_hash),
                *((f"data {symbol}", digest) for symbol, digest in manifest.provenance.data_hash.items()),
                ("git commit", manifest.provenance.git_commit or "not a checkout"),
                *manifest.provenance.versions.items(),
            ],
        ),
    }
    body = "\n".join(f"## {title}\n\n{text.rstrip()}\n" for title, text in sections.items())
    return f"# Model card: {manifest.name}\n\n{body}"


def _members(spec: EnsembleSpec, members: Mapping[str, Manifest], records: Mapping[str, VoterRecord]) -> str:
    rows = [
        (
            one.name,
            members[one.name].kind,
            members[one.name].state.history,
            *members[one.name].provenance.spans["train"],
            f"{one.weight:.4g}",
            f"{one.accuracy:.4g}",
            records[one.name].votes,
            records[one.name].right,
            f"{records[one.name].chance:.1f}",
            f"{records[one.name].log_return:.4g}",
        )
        for one in spec.members
    ]
    head = ("name", "kind", "history", "trained from", "to", "weight", "accuracy", "votes", "right", "by chance")
    return _table((*head, "log return"), rows)


def _rule(spec: EnsembleSpec) -> str:
    online = (
        "The weights stay as they are."
        if spec.forgetting is None
        else "The weights follow the members' accuracy while it trades: an outcome becomes known "
        f"{spec.horizon} bars after the fill (or at an intraday session's end), and all earlier ones are then "
        f"multiplied by {spec.forgetting:g}."
    )
    return f"{_DECIDES[spec.method].format(consensus=spec.consensus)}\n\n{online}"


def _measured(spec: EnsembleSpec, manifest: Manifest) -> str:
    found = spec.measured
    chosen_on = found["chosen_on_this_span"]
    flattered = (
        f"The weights of {', '.join(chosen_on)} were chosen (early stopping, calibration) on days of this span, so "
        "the figures flatter them, and the regression of a stack believes them too much."
        if chosen_on
        else "No member was chosen on a day of this span either."
    )
    return (
        f"{found['first']} to {found['last']} on {', '.join(found['symbols'])}, after the last day that any member was "
        f"trained on. A vote for a direction is right when the log return over {spec.horizon} bars has its sign and "
        f"is larger than {spec.dead_zone:.3g} ({found['dead_zone_round_trips']:g} round trips of charges and "
        f"slippage). `by chance` is how many would have been right at random bars. {flattered} The ensemble's own log "
        f"return there, {manifest.validation['log_return']:.4g}, is of the span on which it was weighed: a later span "
        "tells more."
    )


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"
