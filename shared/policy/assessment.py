"""Which classes a ticket falls into, and how urgent that makes it (GDM-D2 … D11, T9)."""

from collections.abc import Iterable

from shared.contracts.ticket import ClassMark, TicketSnapshot, Urgency
from shared.policy.facts import facts_of
from shared.policy.model import Pack


def assess(pack: Pack, ticket: TicketSnapshot, add: Iterable[ClassMark] = ()) -> TicketSnapshot:
    """The ticket with kind, classes and urgency set. Classes it already has stay; a second call changes nothing."""
    facts = facts_of(pack, ticket)
    update: dict[str, object] = {}
    kind_rule = pack.kind_table.first(facts)
    if kind_rule is not None and kind_rule.kind != ticket.kind:
        update["kind"] = kind_rule.kind
        facts = facts_of(pack, ticket, kind=kind_rule.kind)
    marks = {mark.code: mark for mark in ticket.classes}
    for mark in add:
        marks.setdefault(mark.code, mark)
    for rule in pack.class_table.holding(facts):
        if rule.add not in marks:
            marks[rule.add] = ClassMark(code=rule.add, rule=rule.id)
    classes = tuple(marks.values())
    found = tuple(marks)
    judged = facts if found == facts["classes"] else facts_of(pack, ticket, kind=facts["kind"], classes=found)
    urgency_rule = next(pack.urgency_table.holding(judged))
    level = pack.level_by_code[urgency_rule.level]
    urgency = Urgency(code=level.code, rank=level.rank, rule=urgency_rule.id)
    return ticket.model_copy(update={**update, "classes": classes, "urgency": urgency})
