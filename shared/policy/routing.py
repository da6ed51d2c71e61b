"""Where a ticket goes (RTE-01 … RTE-19). The first rule that holds and whose target is known wins."""

from shared.contracts.ticket import TicketSnapshot
from shared.policy.conditions import ELEMENT
from shared.policy.facts import TicketFacts, element_city, facts_of
from shared.policy.model import Pack
from shared.policy.results import Route
from shared.policy.rules import RouteRule
from shared.policy.vocabulary import basis_of


def route(
    pack: Pack,
    ticket: TicketSnapshot,
    *,
    returned_by: str | None = None,
    return_reason: str | None = None,
    network: str | None = None,
    previous_branch: str | None = None,
) -> Route:
    """The branch, the desk and the complaint city. There always is one: at worst the centre, as for numbers not ours.

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
    for rule in pack.route_table.holding(facts):
        if (found := _apply(pack, rule, facts)) is not None:
            return found
    return _outside(pack, None, facts)


def _apply(pack: Pack, rule: RouteRule, facts: TicketFacts) -> Route | None:
    targets = [_target(facts, target) for target in rule.branch]
    branch = next((target for target in targets if target in pack.branch_by_id), None)
    if branch is None:
        return _outside(pack, rule, facts) if any(target in pack.region_ids for target in targets) else None
    cities = [_target(facts, target) for target in rule.complaint_city]
    complaint_city = next((city for city in cities if _takes(pack, city, rule)), branch)
    category, type_rules = _category(pack, rule, facts)
    return Route(
        branch=branch,
        unit=_unit(pack, rule, facts),
        complaint_city=complaint_city or branch,
        category=category,
        instruction=rule.instruction,
        redispatch=rule.redispatch,
        basis=basis_of(pack, *rule.rule_ids, *type_rules),
    )


def _takes(pack: Pack, city: str | None, rule: RouteRule) -> bool:
    """A branch, or a region that the rule names itself."""
    return city is not None and (city in pack.branch_by_id or city in rule.complaint_city)


def _outside(pack: Pack, rule: RouteRule | None, facts: TicketFacts) -> Route:
    """The number belongs to nobody of ours: the centre handles it, with the rule's own instruction."""
    outside = pack.routing.outside
    complaint_city = outside.complaint_city
    if facts["business_matter"]:
        known = [_target(facts, target) for target in outside.business_complaint_city]
        complaint_city = next((city for city in known if city is not None), complaint_city)
    category, type_rules = _category(pack, rule, facts)
    return Route(
        branch=outside.branch,
        unit=outside.unit,
        complaint_city=complaint_city,
        category=category,
        instruction=rule.instruction if rule else None,
        redispatch=rule.redispatch if rule else False,
        basis=basis_of(pack, *(rule.rule_ids if rule else ()), *outside.rule_ids, *type_rules),
    )


def _category(pack: Pack, rule: RouteRule | None, facts: TicketFacts) -> tuple[str | None, tuple[str, ...]]:
    """The corrected type, and the type rule that says so; None when the type stays."""
    if rule is not None and rule.category is not None:
        return (rule.category if rule.category != facts.ticket.category else None), ()
    type_rule = pack.type_table.first(facts)
    if type_rule is None:
        return None, ()
    return (type_rule.category if type_rule.category != facts.ticket.category else None), type_rule.rule_ids


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
    agents = facts["agent_centre"] if rule.centre_of == "agent" else None
    centre = agents or facts["home_city"]
    return f"{rule.unit}.{centre}" if centre else rule.unit
