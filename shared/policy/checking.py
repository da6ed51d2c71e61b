"""Review's automatic checks (SDM-R0 … R10, C1 … C12, DET-04, 22 … 27)."""

from collections.abc import Mapping

from shared.contracts.review import Finding
from shared.contracts.ticket import TicketSnapshot
from shared.policy.facts import TicketFacts, facts_of
from shared.policy.model import Pack
from shared.policy.results import Verdict
from shared.policy.rules import Check
from shared.policy.vocabulary import basis_of


def check(pack: Pack, ticket: TicketSnapshot, *, round: int) -> Verdict:
    """Approve, return or hold. The first check that returns or holds decides; every check that holds is a finding."""
    facts = facts_of(pack, ticket, round=round)
    applied = list(pack.check_table.holding(facts))
    deciding = next((rule for rule in applied if rule.outcome != "note"), None)
    basis = basis_of(pack, *(rule_id for rule in applied for rule_id in rule.rule_ids))
    if deciding is None:
        return Verdict("approve", None, (), (), basis)
    words = _words(pack, ticket, facts)
    findings = tuple(_finding(rule, words) for rule in applied if rule.outcome != "note")
    if deciding.outcome == "return":
        return Verdict("return", deciding.reason, _missing(deciding, facts), findings, basis)
    return Verdict("hold", deciding.reason, (), findings, basis)


def _missing(rule: Check, facts: TicketFacts) -> tuple[str, ...]:
    """What the agent must add. One return asks for everything at once, not for one thing after the other."""
    elements = facts["elements_missing"]
    found = elements if isinstance(elements, tuple) else ()
    if rule.missing or rule.when.looks_at("elements_missing"):
        return tuple(dict.fromkeys((*rule.missing, *found)))
    return ()


def _words(pack: Pack, ticket: TicketSnapshot, facts: TicketFacts) -> Mapping[str, tuple[str, str]]:
    missing = facts["elements_missing"]
    labels = [pack.element_by_code[code].label for code in missing] if isinstance(missing, tuple) else []
    category = pack.category(ticket.category)
    duplicate = ticket.open_duplicate.ticket_no if ticket.open_duplicate else ""
    return {
        "missing": ("、".join(label.zh for label in labels), ", ".join(label.en for label in labels)),
        "duplicate": (duplicate, duplicate),
        "category": (category.path_label.zh, category.path_label.en) if category else ("", ""),
        "prefix": (ticket.contact.number_prefix, ticket.contact.number_prefix),
    }


def _finding(rule: Check, words: Mapping[str, tuple[str, str]]) -> Finding:
    return Finding(
        rule=rule.id,
        message_zh=rule.message.zh.format_map({name: zh for name, (zh, _) in words.items()}),
        message_en=rule.message.en.format_map({name: en for name, (_, en) in words.items()}),
        proposal=rule.proposal,
    )
