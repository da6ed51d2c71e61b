"""Many complaints of one problem, the same complaint again, and complaining twice within hours (GDM-D6, D7, SCM-1)."""

from bisect import bisect_right
from calendar import monthrange
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from shared.contracts.sla import Problem
from shared.contracts.ticket import TicketSnapshot
from shared.policy.facts import TicketFacts, facts_of
from shared.policy.model import Pack

SEPARATOR = "|"
MONTHS = 12


@dataclass(frozen=True, slots=True)
class Complaint:
    """What the batch rule needs of a complaint. `at` is when it was made (event time), not when we learned of it."""

    ticket_id: UUID
    customer_key: str
    vip: bool
    at: datetime


def problem_of(pack: Pack, ticket: TicketSnapshot) -> Problem | None:
    """What "the same problem" is for this ticket, or None when the key cannot be formed."""
    facts = facts_of(pack, ticket)
    parts: dict[str, str | None] = {}
    for part in pack.detection.problem.parts:
        value = _first_known(facts, part.first_of)
        if value is None and part.required:
            return None
        parts[part.name] = value
    return Problem(key=SEPARATOR.join(value or "" for value in parts.values()), parts=parts)


def _first_known(facts: TicketFacts, names: Iterable[str]) -> str | None:
    return next((str(value) for name in names if (value := facts[name]) not in (None, "")), None)


def counts_for_batch(pack: Pack, ticket: TicketSnapshot) -> bool:
    """Whether a ticket of this kind is a complaint in the sense of GDM-D6; an inquiry is none."""
    kind = pack.kind_by_id.get(ticket.kind)
    return kind is not None and kind.counts_for_batch


def is_vip(pack: Pack, ticket: TicketSnapshot) -> bool:
    tier = pack.tier_by_id.get(ticket.customer.tier)
    return tier is not None and tier.vip


def batch_members(pack: Pack, complaints: Sequence[Complaint]) -> set[UUID]:
    """The complaints (all of one problem) that belong to a batch: the union of all windows that reach a threshold.

    A window is (x − length, x]. Moving x back to the last complaint inside loses none, so the windows that end at a
    complaint are enough. The order of the input does not matter.
    """
    rule = pack.detection.batch
    length = timedelta(minutes=rule.window_minutes)
    ordered = sorted(complaints, key=lambda complaint: complaint.at)
    times = [complaint.at for complaint in ordered]
    vips: Counter[str] = Counter()
    ordinary = first = last = 0
    covered_to = 0
    members: set[UUID] = set()
    while last < len(ordered):
        upto = bisect_right(times, times[last], lo=last)
        for complaint in ordered[last:upto]:
            ordinary += not complaint.vip
            vips.update((complaint.customer_key,) if complaint.vip else ())
        last = upto
        while times[first] <= times[last - 1] - length:
            ordinary -= not ordered[first].vip
            _forget(vips, ordered[first])
            first += 1
        if ordinary >= rule.ordinary_tickets or len(vips) >= rule.vip_customers:
            members.update(complaint.ticket_id for complaint in ordered[max(first, covered_to) : last])
            covered_to = last
    return members


def _forget(vips: Counter[str], complaint: Complaint) -> None:
    if not complaint.vip:
        return
    vips[complaint.customer_key] -= 1
    if not vips[complaint.customer_key]:
        del vips[complaint.customer_key]


def is_repeat(pack: Pack, archived_at: datetime, now: datetime) -> bool:
    """Whether a ticket of the same problem, archived then, makes one of now a repeat (calendar months, inclusive)."""
    local_now = now.astimezone(pack.tz)
    return _months_before(local_now, pack.detection.repeat.calendar_months) <= archived_at <= now


def _months_before(moment: datetime, months: int) -> datetime:
    """The same local day and time so many months earlier, or the last day of a shorter month."""
    index = moment.year * MONTHS + moment.month - 1 - months
    year, month = index // MONTHS, index % MONTHS + 1
    return moment.replace(year=year, month=month, day=min(moment.day, monthrange(year, month)[1]))


def is_appeal(pack: Pack, earlier_accepted_at: datetime, now: datetime) -> bool:
    """Whether a second complaint comes so soon that it counts as an appeal (SCM-1): 0 < d <= the limit."""
    between = now - earlier_accepted_at
    return timedelta(0) < between <= timedelta(hours=pack.detection.appeal.within_hours)
