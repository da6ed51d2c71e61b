"""Where a ticket goes (RTE-01 … RTE-19). The first rule that holds and whose target is known wins."""

from shared.contracts.ticket import TicketSnapshot
from shared.policy.conditions import ELEMENT
from shared.policy.facts import TicketFacts, element_city, facts_of
from shared.policy.model import Pack
from shared.policy.results import Route
from shared.policy.rules import RouteRule
from shared.policy.vocabulary import basis_of


class NoRoute(ValueError):
    """No rule applies: the pack lacks a last rule that always does."""


def route(
    pack: Pack,
    ticket: TicketSnapshot,
    *,
    returned_by: str | None = None,
    return_reason: str | None = None,
    network: str | None = None,
    previous_branch: str | None = None,
) -> Route:
    """The branch, the desk and the complaint city. Raises: `NoRoute`.

    `network` is the finding of the fault city ("normal" or "faulty"), `previous_branch` the branch that gave it.
    """
    facts = facts_of(
        pack,
        ticket,
        returned_by=returned_by,
        return_reason=return_reason,
        network=network,
        previous_branch=previous_branch or returned_by,
    )
    for rule in pack.routing.rules:
        if rule.when(facts) and (found := _apply(pack, rule, facts)) is not None:
            return found
    raise NoRoute(f"no routing rule of {pack.id} {pack.version} applies")


def _apply(pack: Pack, rule: RouteRule, facts: TicketFacts) -> Route | None:
    targets = [_target(facts, target) for target in rule.branch]
    branch = next((target for target in targets if target in pack.branch_by_id), None)
    if branch is None:
        return _outside(pack, rule, facts) if any(target in pack.region_ids for target in targets) else None
    cities = [_target(facts, target) for target in rule.complaint_city]
    complaint_city = next((city for city in cities if _takes(pack, city, rule)), branch)
    return Route(
        branch=branch,
        unit=_unit(pack, rule, facts),
        complaint_city=complaint_city or branch,
        category=rule.category,
        instruction=rule.instruction,
        redispatch=rule.redispatch,
        basis=basis_of(pack, *rule.rule_ids),
    )


def _takes(pack: Pack, city: str | None, rule: RouteRule) -> bool:
    """A branch, or a region that the rule names itself."""
    return city is not None and (city in pack.branch_by_id or city in rule.complaint_city)


def _outside(pack: Pack, rule: RouteRule, facts: TicketFacts) -> Route:
    """The number belongs to nobody of ours: the centre handles it, with the rule's own instruction."""
    outside = pack.routing.outside
    complaint_city = outside.complaint_city
    if facts["business_matter"]:
        known = [_target(facts, target) for target in outside.business_complaint_city]
        complaint_city = next((city for city in known if city is not None), complaint_city)
    return Route(
        branch=outside.branch,
        unit=outside.unit,
        complaint_city=complaint_city,
        category=rule.category,
        instruction=rule.instruction,
        redispatch=rule.redispatch,
        basis=basis_of(pack, *rule.rule_ids, *outside.rule_ids),
    )


def _target(facts: TicketFacts, target: str) -> str | None:
    """What a target stands for in this ticket; a plain id stands for itself."""
    if target.startswith(ELEMENT):
        return element_city(facts, target.removeprefix(ELEMENT))
    if target in ("home_city", "place_city", "returned_by", "previous_branch"):
        value = facts[target]
        return value if isinstance(value, str) else None
    return target


def _unit(pack: Pack, rule: RouteRule, facts: TicketFacts) -> str | None:
    if rule.unit is None:
        category = pack.category(facts.ticket.category)
        return category.unit if category else None
    if not pack.unit_by_id[rule.unit].per_centre:
        return rule.unit
    centre = facts["agent_centre"] or facts["home_city"]
    return f"{rule.unit}.{centre}" if centre else rule.unit
