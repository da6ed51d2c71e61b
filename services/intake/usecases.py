"""What intake does. Each function works inside the caller's transaction and never commits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from services.intake import repository
from services.intake.domain import (
    TicketStatus,
    must_allow_answer,
    must_allow_supplement,
    must_allow_withdrawal,
    overall,
)
from services.intake.schemas import (
    AnswerTicket,
    Links,
    Personal,
    PlaceIn,
    RegisterTicket,
    SupplementTicket,
    TicketAccepted,
    WithdrawTicket,
)
from shared.clock import Clock
from shared.contracts.intake import TicketAnswered, TicketRegistered, TicketSupplemented, TicketWithdrawn
from shared.contracts.ticket import (
    Agent,
    Basis,
    ContactFacts,
    CustomerFacts,
    Place,
    TicketRef,
    TicketSnapshot,
    Urgency,
)
from shared.database.engine import Transaction
from shared.errors import Forbidden, Invalid, NotFound
from shared.http.auth import Principal
from shared.http.idempotency import reused
from shared.http.keys import Role
from shared.http.problems import FieldError, InvalidFields
from shared.ids import new_id
from shared.policy import Pack, Unknown, assess, known, resolve_city
from shared.privacy import Vault, mask

CREATED = 201
UNASSESSED = Urgency(code="normal", rank=9, rule="")


@dataclass(frozen=True, slots=True)
class Desk:
    """What every use case of intake works with."""

    pack: Pack
    vault: Vault
    clock: Clock

    @property
    def own_branch(self) -> str:
        """The organisation's own centre: it handles what belongs to no city."""
        return next(branch.id for branch in self.pack.branches if branch.kind == "centre")


@dataclass(frozen=True, slots=True)
class Registration:
    """One accepted request, on its way into a batch."""

    request: RegisterTicket
    principal: Principal
    idempotency_key: str | None
    request_hash: bytes


@dataclass(slots=True)
class _Draft:
    """A registration with its number, before it is stored."""

    registration: Registration
    ticket_id: UUID
    ticket_no: str
    customer_key: str
    answer: bytes
    duplicate: TicketRef | None = None


def links(ticket_no: str) -> Links:
    return Links(self=f"/v1/tickets/{ticket_no}", timeline=f"/v1/tickets/{ticket_no}/timeline")


def check_known(desk: Desk, request: RegisterTicket) -> None:
    """Refuse codes that the pack does not know. Raises `InvalidFields` with what was expected."""
    place_city = request.place.city if request.place else None
    _refuse(
        known(
            desk.pack,
            channel=request.channel,
            kind=request.kind,
            category=request.category,
            home_city=request.customer.home_city or place_city or desk.own_branch,
            place_city=place_city,
            tier=request.customer.tier,
            brand=request.customer.brand,
            flags=request.flags,
            elements=request.elements,
        )
    )


def _refuse(unknown: Sequence[Unknown]) -> None:
    if unknown:
        raise InvalidFields(
            [
                FieldError(
                    pointer="/" + item.field.replace(".", "/"),
                    code="unknown_value",
                    detail=f"{mask(item.value)[:64]!r} is not known to the policy pack",
                    expected=list(item.expected),
                )
                for item in unknown
            ],
            code="unknown_value",
        )


def check_channel(principal: Principal, channel: str) -> None:
    """A key that belongs to one channel posts for that channel only."""
    if principal.role is Role.front_line and principal.scope not in (None, channel):
        raise Forbidden("channel_not_yours", f"this key may post for the channel {principal.scope} only")


async def register_tickets(
    desk: Desk, transaction: Transaction, registrations: Sequence[Registration]
) -> list[bytes | Exception]:
    """Register a batch in one transaction: the answer of each, or the error of each.

    The same key or the same channel and external id again gets the first answer; with another body it is refused.
    """
    connection = transaction.connection
    results: list[bytes | Exception | None] = [None] * len(registrations)
    numbers, real_now = await repository.numbers_and_time(connection, len(registrations))
    now = desk.clock.business(real_now)
    firsts = _first_of_each(registrations, results)
    drafts = {
        index: _draft(desk, registrations[index], number, now) for index, number in zip(firsts, numbers, strict=False)
    }

    await _drop_known_keys(connection, drafts, results)
    await _drop_known_externals(connection, drafts, results)
    if drafts:
        await _find_duplicates(connection, drafts)
        await _store(desk, transaction, list(drafts.values()), now)
    for index, draft in drafts.items():
        results[index] = draft.answer
    return list(_answer_repeats(registrations, results, firsts))


def _identities(registration: Registration) -> Iterator[tuple[str, str, str]]:
    if registration.idempotency_key is not None:
        yield ("key", registration.principal.key_id, registration.idempotency_key)
    if registration.request.external_id is not None:
        yield ("external", registration.request.channel, registration.request.external_id)


def _first_of_each(registrations: Sequence[Registration], results: list[Any]) -> list[int]:
    """The registrations of a batch that repeat none before them."""
    seen: set[tuple[str, str, str]] = set()
    firsts: list[int] = []
    for index, registration in enumerate(registrations):
        identities = set(_identities(registration))
        if not identities & seen:
            firsts.append(index)
            seen |= identities
    return firsts


def _answer_repeats(
    registrations: Sequence[Registration], results: list[bytes | Exception | None], firsts: list[int]
) -> Iterator[bytes | Exception]:
    by_identity = {identity: index for index in firsts for identity in _identities(registrations[index])}
    for index, registration in enumerate(registrations):
        result = results[index]
        if result is None:
            first = next(by_identity[identity] for identity in _identities(registration) if identity in by_identity)
            same = registrations[first].request_hash == registration.request_hash
            result = (results[first] if same else None) or reused()
        yield result


def _draft(desk: Desk, registration: Registration, number: int, now: datetime) -> _Draft:
    ticket_id = new_id()
    local_day = now.astimezone(ZoneInfo(desk.pack.timezone)).strftime("%Y%m%d")
    ticket_no = f"T{local_day}-{number:07d}"
    answer = first_answer(ticket_id, ticket_no)
    return _Draft(
        registration,
        ticket_id,
        ticket_no,
        desk.vault.customer_key(registration.request.customer.phone),
        answer,
    )


def first_answer(ticket_id: UUID, ticket_no: str) -> bytes:
    """`TicketAccepted` of a registration, the same whenever it is given again."""
    return orjson.dumps(
        {
            "ticket_id": str(ticket_id),
            "ticket_no": ticket_no,
            "status": TicketStatus.registered,
            "version": 1,
            "links": {"self": f"/v1/tickets/{ticket_no}", "timeline": f"/v1/tickets/{ticket_no}/timeline"},
        }
    )


async def _drop_known_keys(connection: Any, drafts: dict[int, _Draft], results: list[Any]) -> None:
    keyed = {
        (draft.registration.principal.key_id, draft.registration.idempotency_key): index
        for index, draft in drafts.items()
        if draft.registration.idempotency_key is not None
    }
    if not keyed:
        return
    claims = [
        (client, key or "", drafts[index].registration.request_hash, drafts[index].answer)
        for (client, key), index in keyed.items()
    ]
    claimed = await repository.claim_keys(connection, claims, CREATED)
    taken = [pair for pair in ((claim[0], claim[1]) for claim in claims) if pair not in claimed]
    if taken:
        kept = await repository.kept_answers(connection, taken)
        for pair in taken:
            index = keyed[pair]
            request_hash, answer = kept[pair]
            same = request_hash == drafts.pop(index).registration.request_hash
            results[index] = answer if same else reused()


async def _drop_known_externals(connection: Any, drafts: dict[int, _Draft], results: list[Any]) -> None:
    external = {
        (draft.registration.request.channel, draft.registration.request.external_id): index
        for index, draft in drafts.items()
        if draft.registration.request.external_id is not None
    }
    if not external:
        return
    known_before = await repository.by_external_ids(connection, [(c, e or "") for c, e in external])
    for pair, row in known_before.items():
        index = external[pair]
        registration = drafts.pop(index).registration
        if bytes(row.request_hash) != registration.request_hash:
            results[index] = Invalid(
                "external_id_reused", "this channel used the external_id for another complaint", pointer="/external_id"
            )
            continue
        results[index] = answer = first_answer(row.ticket_id, row.ticket_no)
        if registration.idempotency_key is not None:
            await repository.set_answer(connection, registration.principal.key_id, registration.idempotency_key, answer)


async def _find_duplicates(connection: Any, drafts: dict[int, _Draft]) -> None:
    """Same customer, same category, earlier ticket still open (DET-04 and its like): review asks a person."""
    earlier: dict[tuple[str, str], TicketRef] = {}
    for row in await repository.open_of_customers(connection, {draft.customer_key for draft in drafts.values()}):
        earlier.setdefault(
            (row.customer_key, row.category), TicketRef(ticket_id=row.ticket_id, ticket_no=row.ticket_no)
        )
    for draft in drafts.values():
        problem = (draft.customer_key, draft.registration.request.category)
        draft.duplicate = earlier.get(problem)
        earlier.setdefault(problem, TicketRef(ticket_id=draft.ticket_id, ticket_no=draft.ticket_no))


async def _store(desk: Desk, transaction: Transaction, drafts: Sequence[_Draft], now: datetime) -> None:
    tickets: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for draft in drafts:
        request, actor = draft.registration.request, draft.registration.principal.actor
        snapshot = assess(desk.pack, _snapshot(desk, draft, now))
        event_id = transaction.publish(
            TicketRegistered(ticket=snapshot, actor=actor), subject=draft.ticket_id, version=1, time=now
        )
        tickets.append(
            {
                "ticket_id": draft.ticket_id,
                "ticket_no": draft.ticket_no,
                "channel": request.channel,
                "external_id": request.external_id,
                "request_hash": draft.registration.request_hash,
                "status": TicketStatus.registered,
                "customer_key": draft.customer_key,
                "category": snapshot.category,
                "urgency_rank": snapshot.urgency.rank,
                "snapshot": snapshot.model_dump(mode="json", exclude_none=True),
                "personal": desk.vault.seal(draft.ticket_id, _personal(request).model_dump_json().encode()),
                "version": 1,
                "accepted_at": now,
                "updated_at": now,
            }
        )
        entries.append(
            entry(
                draft.ticket_id,
                event_id,
                now,
                "ticket.registered",
                actor,
                [snapshot.urgency.rule, *(mark.rule for mark in snapshot.classes)],
                {
                    "channel": snapshot.channel,
                    "kind": snapshot.kind,
                    "category": snapshot.category,
                    "urgency": snapshot.urgency.code,
                    "classes": [mark.code for mark in snapshot.classes],
                },
            )
        )
    await repository.insert_tickets(transaction.connection, tickets)
    await repository.add_timeline(transaction.connection, entries)


def _personal(request: RegisterTicket) -> Personal:
    return Personal(
        phone=request.customer.phone,
        name=request.customer.name,
        contact_phone=request.contact_phone,
        content=request.content,
        address=request.place.address if request.place else None,
        elements=request.elements,
    )


def _snapshot(desk: Desk, draft: _Draft, now: datetime) -> TicketSnapshot:
    """The ticket as others may see it. A place is masked like the text; of the phone, three digits are left."""
    request, pack = draft.registration.request, desk.pack
    customer = request.customer
    place = _place(pack, request.place, customer.name)
    home = resolve_city(pack, customer.home_city) if customer.home_city else (place.city if place else None)
    return TicketSnapshot(
        ticket_no=draft.ticket_no,
        channel=request.channel,
        external_id=mask(request.external_id) if request.external_id else None,
        kind=request.kind,
        category=request.category,
        customer=CustomerFacts(
            key=draft.customer_key,
            tier=customer.tier,
            brand=customer.brand,
            home_city=home or desk.own_branch,
            group_rating=customer.group_rating,
        ),
        contact=_contact(request.customer.phone, request.contact_phone, request.contact_suspended_at, request.content),
        content=mask(request.content, customer.name),
        occurred_at=request.occurred_at,
        accepted_at=now,
        submitted_at=now,
        place=place,
        elements=_masked_elements(request.elements, customer.name),
        amount=request.amount,
        agent=Agent(id=request.agent.id, centre=request.agent.centre) if request.agent else None,
        call_serial=request.call_serial,
        flags=tuple(dict.fromkeys(request.flags)),
        urgency=UNASSESSED,
        open_duplicate=draft.duplicate,
        pack=pack.id,
        pack_version=pack.version,
    )


def _place(pack: Pack, place: PlaceIn | None, name: str | None) -> Place | None:
    if place is None:
        return None
    return Place(
        city=resolve_city(pack, place.city) if place.city else None,
        district=mask(place.district, name) if place.district else None,
        address=mask(place.address, name) if place.address else None,
        longitude=place.longitude,
        latitude=place.latitude,
    )


def _contact(phone: str, contact: str | None, suspended_at: datetime | None, content: str) -> ContactFacts:
    """What may be known of the contact phone: whether it differs, is dead, and whether the text names another one."""
    digits = "".join(c for c in phone if c.isdigit()).removeprefix("86")
    reached_at = "".join(c for c in (contact or phone) if c.isdigit()).removeprefix("86")
    return ContactFacts(
        differs=contact is not None and reached_at != digits,
        suspended_at=suspended_at,
        other_in_text=_names_another_phone(content, reached_at),
        number_prefix=digits[:3],
    )


def _names_another_phone(content: str, reached_at: str) -> bool:
    runs = "".join(c if c.isdigit() else " " for c in content).split()
    return any(len(run) == 11 and run.startswith("1") and run != reached_at for run in runs)


def _masked_elements(elements: dict[str, Any], name: str | None) -> dict[str, Any]:
    return {code: mask(value, name) if isinstance(value, str) else value for code, value in elements.items()}


def entry(
    ticket_id: UUID,
    event_id: UUID,
    at: datetime,
    kind: str,
    actor: str,
    rules: Sequence[str] = (),
    details: dict[str, Any] | None = None,
    service: str = "intake",
) -> dict[str, Any]:
    """A row of the timeline."""
    return {
        "ticket_id": ticket_id,
        "event_id": event_id,
        "at": at,
        "service": service,
        "type": kind,
        "actor": actor,
        "rules": [rule for rule in dict.fromkeys(rules) if rule],
        "details": details or {},
    }


async def _locked(transaction: Transaction, reference: UUID | str, principal: Principal) -> Any:
    found = await repository.find(transaction.connection, reference)
    if found is None or not may_see(principal, found):
        raise NotFound("ticket_not_found", "no ticket of this number")
    return await repository.lock(transaction.connection, found.ticket_id)


def may_see(principal: Principal, row: Any) -> bool:
    """A branch sees what it holds now, a front line with a channel scope its own channel, the others everything."""
    if principal.role == "branch":
        return bool(row.branch == principal.scope)
    if principal.role == "front_line" and principal.scope is not None:
        return bool(row.channel == principal.scope)
    return True


async def supplement_ticket(
    desk: Desk, transaction: Transaction, principal: Principal, reference: UUID | str, request: SupplementTicket
) -> TicketAccepted:
    """Add what a return asked for; the ticket goes to review again. Acceptance, and so every promise, stays."""
    row = await _locked(transaction, reference, principal)
    must_allow_supplement(TicketStatus(row.status))
    now = desk.clock.business(await transaction.now())
    before = TicketSnapshot.model_validate(row.snapshot)
    _refuse(
        known(
            desk.pack,
            channel=before.channel,
            kind=before.kind,
            category=before.category,
            home_city=before.customer.home_city,
            place_city=request.place.city if request.place else None,
            tier=before.customer.tier,
            brand=before.customer.brand,
            flags=request.flags or (),
            elements=request.elements,
        )
    )
    personal = Personal.model_validate_json(desk.vault.open(row.ticket_id, row.personal))
    changed = tuple(sorted(request.model_fields_set - {"note"}))
    personal = personal.model_copy(
        update={
            "content": f"{personal.content}\n{request.content}" if request.content else personal.content,
            "contact_phone": request.contact_phone or personal.contact_phone,
            "address": request.place.address if request.place and request.place.address else personal.address,
            "elements": personal.elements | request.elements,
        }
    )
    suspended = request.contact_suspended_at if request.contact_phone else before.contact.suspended_at
    snapshot = assess(
        desk.pack,
        before.model_copy(
            update={
                "content": mask(personal.content, personal.name),
                "contact": _contact(personal.phone, personal.contact_phone, suspended, personal.content),
                "occurred_at": request.occurred_at or before.occurred_at,
                "submitted_at": now,
                "place": _place(desk.pack, request.place, personal.name) or before.place,
                "elements": before.elements | _masked_elements(request.elements, personal.name),
                "amount": request.amount if request.amount is not None else before.amount,
                "call_serial": request.call_serial or before.call_serial,
                "flags": before.flags if request.flags is None else tuple(dict.fromkeys(request.flags)),
            }
        ),
    )
    event = TicketSupplemented(ticket=snapshot, changed=changed, note=_masked(request.note), actor=principal.actor)
    version = row.version + 1
    event_id = transaction.publish(event, subject=row.ticket_id, version=version, time=now)
    order = TicketStatus(row.order_status) if row.order_status else None
    review = TicketStatus.in_review if order else None
    status = overall(TicketStatus(row.status), review, order)
    await repository.save(
        transaction.connection,
        row.ticket_id,
        status=status,
        review_status=review,
        snapshot=snapshot.model_dump(mode="json", exclude_none=True),
        personal=desk.vault.seal(row.ticket_id, personal.model_dump_json().encode()),
        version=version,
        updated_at=now,
    )
    details = {"changed": list(changed)} | ({"note": _masked(request.note)} if request.note else {})
    await repository.add_timeline(
        transaction.connection,
        [entry(row.ticket_id, event_id, now, event.TYPE, principal.actor, ["SDM-R8"], details)],
    )
    return _accepted(row, status, version)


async def withdraw_ticket(
    desk: Desk, transaction: Transaction, principal: Principal, reference: UUID | str, request: WithdrawTicket
) -> TicketAccepted:
    row = await _locked(transaction, reference, principal)
    must_allow_withdrawal(TicketStatus(row.status))
    event = TicketWithdrawn(ticket_no=row.ticket_no, reason=mask(request.reason), actor=principal.actor)
    return await _end(desk, transaction, row, event, TicketStatus.withdrawn, [], {"reason": event.reason})


async def answer_ticket(
    desk: Desk, transaction: Transaction, principal: Principal, reference: UUID | str, request: AnswerTicket
) -> TicketAccepted:
    """Solved at first contact (RTE-01)."""
    row = await _locked(transaction, reference, principal)
    must_allow_answer(TicketStatus(row.status))
    rules = ("RTE-01",)
    basis = Basis(pack=desk.pack.id, version=desk.pack.version, rules=rules)
    event = TicketAnswered(ticket_no=row.ticket_no, answer=mask(request.answer), basis=basis, actor=principal.actor)
    return await _end(desk, transaction, row, event, TicketStatus.answered, rules, {"answer": event.answer})


async def _end(
    desk: Desk,
    transaction: Transaction,
    row: Any,
    event: TicketWithdrawn | TicketAnswered,
    status: TicketStatus,
    rules: Sequence[str],
    details: dict[str, Any],
) -> TicketAccepted:
    now = desk.clock.business(await transaction.now())
    version = row.version + 1
    event_id = transaction.publish(event, subject=row.ticket_id, version=version, time=now)
    await repository.save(
        transaction.connection, row.ticket_id, status=status, version=version, updated_at=now, closed_at=now
    )
    await repository.add_timeline(
        transaction.connection,
        [entry(row.ticket_id, event_id, now, event.TYPE, event.actor, rules, details)],
    )
    return _accepted(row, status, version)


async def read_contact(
    desk: Desk, transaction: Transaction, principal: Principal, reference: UUID | str
) -> tuple[str, Personal]:
    """The personal data of a ticket, for who handles it now; the read is written down first."""
    row = await _locked(transaction, reference, principal)
    if row.personal is None:
        raise NotFound("contact_erased", "the personal data of this ticket was erased")
    now = desk.clock.business(await transaction.now())
    await repository.add_timeline(
        transaction.connection, [entry(row.ticket_id, new_id(), now, "contact.read", principal.actor)]
    )
    return row.ticket_no, Personal.model_validate_json(desk.vault.open(row.ticket_id, row.personal))


def _masked(text: str | None) -> str | None:
    return mask(text) if text else None


def _accepted(row: Any, status: TicketStatus, version: int) -> TicketAccepted:
    return TicketAccepted(
        ticket_id=row.ticket_id, ticket_no=row.ticket_no, status=status, version=version, links=links(row.ticket_no)
    )
