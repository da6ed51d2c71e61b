"""What branches, callback staff and supervisors do, over HTTP or by command.

Each verb is one function on a locked `WorkOrder`; the HTTP routes (`carry_out`) and the commands on Kafka call the same
ones.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

from services.dispatch import repository
from services.dispatch.domain import verbs
from services.dispatch.domain.order import RULES, OrderStatus, Paperwork, WorkOrder
from services.dispatch.schemas import (
    CallbackResult,
    Close,
    Progress,
    Raise,
    Reopen,
    ReplyIn,
    Return,
    Transfer,
    Urge,
    order_view,
)
from shared.calendar import WorkingCalendar
from shared.clock import Clock
from shared.contracts.dispatch import Reply
from shared.contracts.ticket import Basis, TicketSnapshot
from shared.database.engine import Database
from shared.database.group_commit import GroupCommit
from shared.errors import Conflict, DomainError, Invalid, NotFound
from shared.http.auth import Principal
from shared.http.idempotency import keep_answers, kept_answers, reused
from shared.http.keys import Role
from shared.policy import (
    Pack,
    Route,
    after_callback,
    assess,
    callback_needed,
    class_mark,
    closing,
    limits,
    route,
)
from shared.privacy import mask
from shared.telemetry.tracing import begin_trace

OK = 200
RAISED = "raised"
SENT_OUT = "sent_to_other_province"
CHOSEN_BY_PERSON = "SDM-R0"


@dataclass(frozen=True, slots=True)
class Desk:
    """What every use case of dispatch works with. The URLs are where branches reach us."""

    pack: Pack
    calendar: WorkingCalendar
    clock: Clock
    intake_url: str
    public_url: str

    def basis(self, *rules: str) -> Basis:
        return Basis(pack=self.pack.id, version=self.pack.version, rules=rules)

    def paper(self, ticket: TicketSnapshot) -> Paperwork:
        return Paperwork(self.pack, limits(self.pack, ticket, self.calendar), self.intake_url, self.public_url)


# ---- verbs, on a locked order --------------------------------------------------------------------------------------


def dispatch_approved(
    desk: Desk,
    order: WorkOrder,
    ticket: TicketSnapshot,
    chosen: str | None,
    actor: str,
    now: datetime,
) -> None:
    """Route an approved ticket and send it out; a branch that a reviewer chose overrules the rules."""
    order.ticket = ticket
    decided = route(desk.pack, ticket)
    if chosen is not None:
        decided = Route(
            branch=chosen,
            unit=None,
            complaint_city=chosen,
            category=None,
            instruction=decided.instruction,
            redispatch=True,
            basis=desk.basis(CHOSEN_BY_PERSON),
        )
    verbs.send(order, decided, desk.paper(ticket), actor, now)


def accept(desk: Desk, order: WorkOrder, actor: str, now: datetime) -> None:
    verbs.accept(order, actor, now)


def progress(desk: Desk, order: WorkOrder, request: Progress, actor: str, now: datetime) -> None:
    verbs.progress(order, desk.pack, actor, now, mask(request.note), request.contacted_at, request.marks)


def reply(desk: Desk, order: WorkOrder, request: ReplyIn, actor: str, now: datetime) -> None:
    """The branch's answer. A verified network may send the order on (RTE-09, RTE-10); otherwise callback or closing."""
    ticket = order.snapshot
    if request.replied_at > now + verbs.CLOCK_TOLERANCE:
        raise Invalid("replied_in_future", "the time of the reply cannot be later than now", pointer="/replied_at")
    given = Reply(
        process=mask(request.process),
        content=mask(request.content),
        satisfaction=request.satisfaction,
        replier=mask(request.replier),
        replied_at=request.replied_at,
        network=request.network,
    )
    onward = None
    if request.network is not None:
        onward = route(desk.pack, ticket, network=request.network, previous_branch=order.branch)
    rules = ("GDM-T8", *(onward.basis.rules if onward else ()))
    city = onward.complaint_city if onward is not None else None
    verbs.reply(order, given, actor, now, city, desk.basis(*rules))
    if onward is not None and onward.redispatch:
        verbs.send(order, onward, desk.paper(ticket), RULES, now)
        return
    needed = callback_needed(desk.pack, ticket, given.model_dump())
    if not needed.needed:
        end = closing(desk.pack, ticket, outcome=given.satisfaction, accepted_at=ticket.accepted_at, closed_at=now)
        verbs.close(order, given.satisfaction, end, RULES, now, rules=needed.basis.rules)


def give_back(desk: Desk, order: WorkOrder, request: Return, actor: str, now: datetime) -> None:
    """The branch returns it. Where a rule keeps it at a branch (RTE-18) it goes out again, by that rule once only:
    a branch that returns it again is heard by a person.
    """
    branch = order.branch
    onward = route(desk.pack, order.snapshot, returned_by=branch, return_reason=request.reason_code)
    kept = onward.redispatch and onward.basis.rules != order.route_rules
    note = mask(request.note) if request.note else None
    verbs.give_back(order, desk.pack, actor, now, request.reason_code, note, redispatched=kept)
    if kept:
        verbs.send(order, onward, desk.paper(order.snapshot), RULES, now)


def transfer(desk: Desk, order: WorkOrder, request: Transfer, actor: str, now: datetime) -> None:
    """The branch passes it to another branch."""
    verbs.transfer(order, desk.pack, actor, now, request.to_branch, mask(request.reason))
    to = Route(
        branch=request.to_branch,
        unit=None,
        complaint_city=request.to_branch,
        category=None,
        instruction=order.instruction,
        redispatch=True,
        basis=desk.basis("GDM-T11"),
    )
    verbs.send(order, to, desk.paper(order.snapshot), actor, now)


def raise_up(desk: Desk, order: WorkOrder, request: Raise, actor: str, now: datetime) -> None:
    """To the province, or out to another province: the class changes, and with it the limit (8.3 no. 18)."""
    mark = class_mark(desk.pack, RAISED if request.to == "province" else SENT_OUT)
    ticket = assess(desk.pack, order.snapshot, add=(mark,))
    verbs.raise_up(order, actor, now, request.to, mask(request.reason), ticket, (mark,), desk.basis(mark.rule))


def urge(desk: Desk, order: WorkOrder, request: Urge, actor: str, now: datetime) -> None:
    verbs.urge(order, actor, now, mask(request.reason), desk.basis("SDM-S7"))


def record_callback(desk: Desk, order: WorkOrder, request: CallbackResult, actor: str, now: datetime) -> None:
    """A callback, and what the pack says follows: close, try again, reopen, or a person decides."""
    ticket = order.snapshot
    note = mask(request.note) if request.note else None
    verbs.callback(order, request.outcome, note, actor, now)
    then = after_callback(
        desk.pack,
        outcome=request.outcome,
        attempts=order.attempts,
        reopened_count=order.reopened,
        ticket=ticket,
    )
    if then.action == "close":
        end = closing(desk.pack, ticket, outcome=request.outcome, accepted_at=ticket.accepted_at, closed_at=now)
        verbs.close(order, request.outcome, end, RULES, now, rules=then.basis.rules)
    elif then.action == "reopen":
        _send_again(desk, order, RULES, now, f"callback: {request.outcome}", then.basis)
    else:
        order.needs_person = then.action == "person"


def close(desk: Desk, order: WorkOrder, request: Close, actor: str, now: datetime) -> None:
    ticket = order.snapshot
    end = closing(desk.pack, ticket, outcome=request.outcome, accepted_at=ticket.accepted_at, closed_at=now)
    verbs.close(order, request.outcome, end, actor, now, mask(request.note) if request.note else None)


def reopen(desk: Desk, order: WorkOrder, request: Reopen, actor: str, now: datetime) -> None:
    _send_again(desk, order, actor, now, mask(request.reason), desk.basis("GDM-P1"))


def _send_again(desk: Desk, order: WorkOrder, actor: str, now: datetime, reason: str, basis: Basis) -> None:
    to = verbs.reopen(order, actor, now, reason, basis)
    verbs.send(order, to, desk.paper(order.snapshot), actor, now)


# ---- the same, over HTTP -------------------------------------------------------------------------------------------


class Act(NamedTuple):
    """What somebody asks to be done with an order, on its way into a batch."""

    principal: Principal
    reference: UUID | str
    verb: Callable[[WorkOrder, str, datetime], None]
    idempotency_key: str | None
    request_hash: bytes
    traceparent: str | None

    @property
    def key(self) -> tuple[str, str] | None:
        """Its client and `Idempotency-Key`, if it has one."""
        return None if self.idempotency_key is None else (self.principal.client, self.idempotency_key)

    def touches(self) -> list[Hashable]:
        """What no other batch may be about while this act is being stored."""
        return [self.reference] if self.key is None else [self.reference, self.key]


class Held(Exception):
    """Somebody else works on this order just now."""


async def carry_out(
    desk: Desk, database: Database, acts: Sequence[Act], *, waits: bool = False
) -> list[bytes | Exception]:
    """Do all of them in one transaction, in order: the order as it then stands (`OrderView` as JSON) or the refusal of
    each; unless it `waits` for orders that others hold, `Held` for these. The same key again gets the first answer;
    with another request it is refused.

    By itself an act cost ten round trips. Raises `UniqueViolationError` when another process stored one of the keys
    meanwhile; then nothing is stored.
    """
    results: list[bytes | Exception] = []
    async with database.transaction() as transaction:
        connection = transaction.connection
        orders = await repository.lock_referenced(connection, {act.reference for act in acts}, waits=waits)
        # Behind the lock: of who sends again what another process is still storing, it sees the first answer.
        keys = {act.key for act in acts if act.key is not None}
        answers = await kept_answers(connection, keys) if keys else {}
        missing = {act.reference for act in acts if act.reference not in orders}
        held = await repository.known_of(connection, missing) if missing and not waits else frozenset()
        changed: dict[UUID, WorkOrder] = {}
        fresh: list[tuple[str, str, bytes, bytes]] = []
        now = desk.clock.now()
        for act in acts:
            if act.key is not None and act.key in answers:
                first_hash, first = answers[act.key]
                results.append(first if first_hash == act.request_hash else reused())
                continue
            if act.reference in held:
                results.append(Held())
                continue
            try:
                order = _done(orders.get(act.reference), act, now)
            except DomainError as error:
                results.append(error)
                continue
            begin_trace(act.traceparent)
            transaction.publish_pending(order)
            orders[order.ticket_id] = orders[order.ticket_no] = changed[order.ticket_id] = order
            answer = order_view(order).model_dump_json().encode()
            results.append(answer)
            if act.key is not None:
                answers[act.key] = act.request_hash, answer
                fresh.append((*act.key, act.request_hash, answer))
        if changed:
            await repository.save(connection, [changed[ticket_id] for ticket_id in sorted(changed)], now)
        if fresh:
            await keep_answers(connection, fresh, OK)
    return results


def _done(found: WorkOrder | None, act: Act, now: datetime) -> WorkOrder:
    """The order with the verb carried out; `found` stays as it was, for a verb may be refused half-way. A branch
    reaches its own orders only."""
    principal = act.principal
    if found is None or not may_see(principal, found):
        raise NotFound("order_not_found", "no order of this number")
    if principal.role is Role.branch and found.status is OrderStatus.raised:
        raise Conflict("order_raised", "the order was raised; the province answers it")
    order = found.copy()
    act.verb(order, principal.actor, now)
    return order


class Acts:
    """The way of acts into groups. Who wants an order that somebody holds leaves the group, which nobody shall hold up,
    and waits in another one."""

    def __init__(self, desk: Desk, database: Database) -> None:
        self._group = GroupCommit[Act, bytes](partial(carry_out, desk, database), Act.touches)
        waiting = partial(carry_out, desk, database, waits=True)
        self._waiting = GroupCommit[Act, bytes](waiting, Act.touches, worth_another=1)

    async def __call__(self, act: Act) -> bytes:
        """The order after the act, as JSON, after the commit. Raises `DomainError` or `Transient`."""
        try:
            return await self._group.submit(act)
        except Held:
            return await self._waiting.submit(act)


def may_see(principal: Principal, order: WorkOrder) -> bool:
    """A branch sees its own orders, a front line with a channel scope those of its channel, the others all."""
    if principal.role is Role.branch:
        return order.branch == principal.scope
    if principal.role is Role.front_line and principal.scope is not None:
        return order.ticket is not None and order.ticket.channel == principal.scope
    return True
