"""The end of a ticket: must the customer be called, what follows a callback, and how it is closed (SDM-S3 … S8).

The true outcome is given in and never changed here. A pack may report another one beside it (domain 8.2); that is off
unless a pack turns it on.
"""

from collections.abc import Mapping
from datetime import datetime

from shared.contracts.dispatch import Satisfaction
from shared.contracts.ticket import TicketSnapshot
from shared.policy.facts import facts_of
from shared.policy.model import Pack
from shared.policy.results import CallbackDecision, CallbackOutcome, Closing
from shared.policy.vocabulary import basis_of

HOUR = 3600


def callback_needed(pack: Pack, ticket: TicketSnapshot, reply: Mapping[str, object]) -> CallbackDecision:
    """Whether we must call the customer after this reply of a branch."""
    facts = facts_of(pack, ticket, event={"reply": reply})
    rule = next(rule for rule in pack.callback.needed if rule.when(facts))
    return CallbackDecision(rule.needed, basis_of(pack, *rule.rule_ids))


def after_callback(
    pack: Pack, *, outcome: Satisfaction, attempts: int, reopened_count: int, ticket: TicketSnapshot
) -> CallbackOutcome:
    """What follows a callback; `attempts` counts this one too."""
    facts = facts_of(pack, ticket, outcome=outcome, attempts=attempts, reopened_count=reopened_count)
    rule = next(rule for rule in pack.callback.after if rule.when(facts))
    return CallbackOutcome(rule.action, basis_of(pack, *rule.rule_ids))


def closing(
    pack: Pack, ticket: TicketSnapshot, *, outcome: Satisfaction, accepted_at: datetime, closed_at: datetime
) -> Closing:
    """What closing brings with it: notices, a follow-up task, and a reported outcome where the pack turns that on."""
    handling_hours = (closed_at - accepted_at).total_seconds() / HOUR
    facts = facts_of(pack, ticket, outcome=outcome, handling_hours=handling_hours)
    holding = [rule for rule in pack.closing.rules if rule.when(facts)]
    rules = [rule_id for rule in holding for rule_id in rule.rule_ids]
    reported: Satisfaction | None = None
    if pack.closing.reporting.enabled:
        report = next((rule for rule in pack.closing.reporting.rules if rule.when(facts)), None)
        if report is not None:
            reported = report.outcome
            rules += report.rule_ids
    return Closing(
        reported_outcome=reported,
        notices=tuple(dict.fromkeys(rule.notice for rule in holding if rule.notice)),
        follow_up=any(rule.follow_up for rule in holding),
        basis=basis_of(pack, *rules),
    )
