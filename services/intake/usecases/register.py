"""Registration, a batch in one transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from services.intake import repository
from services.intake.domain import TicketStatus
from services.intake.schemas import RegisterTicket
from services.intake.usecases.desk import Desk, entry, refuse_unknown
from services.intake.usecases.picture import personal_of, snapshot_of
from shared.contracts.intake import TicketRegistered
from shared.contracts.ticket import TicketRef
from shared.database.columns import Json
from shared.database.engine import Transaction
from shared.errors import Invalid
from shared.http.auth import Principal
from shared.http.idempotency import reused
from shared.ids import new_id
from shared.policy import assess, known
from shared.privacy import mask

CREATED = 201


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
    known: bool = False


def check_known(desk: Desk, request: RegisterTicket) -> None:
    """Refuse codes that the pack does not know. Raises `InvalidFields` with what was expected."""
    place_city = request.place.city if request.place else None
    refuse_unknown(
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

    await _find_known_externals(desk, connection, drafts, results)
    await _claim_keys(connection, drafts, results)
    fresh = [draft for draft in drafts.values() if not draft.known]
    if fresh:
        await _find_duplicates(connection, fresh)
        await _store(desk, transaction, fresh, now)
    for index, draft in drafts.items():
        results[index] = draft.answer
    return list(_answer_repeats(registrations, results, firsts))


def _identities(registration: Registration) -> Iterator[tuple[str, str, str]]:
    if registration.idempotency_key is not None:
        yield ("key", registration.principal.client, registration.idempotency_key)
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
    local_day = now.astimezone(desk.pack.tz).strftime("%Y%m%d")
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


def _external_id(desk: Desk, request: RegisterTicket) -> str | None:
    """The channel's reference as it is stored: not in clear when it holds somebody's number or name."""
    given = request.external_id
    if given is None or mask(given, request.customer.name) == given:
        return given
    return desk.vault.reference(given)


async def _find_known_externals(desk: Desk, connection: Any, drafts: dict[int, _Draft], results: list[Any]) -> None:
    """A channel's `external_id` seen before: the first answer for the same complaint, a refusal for another."""
    external = {
        (draft.registration.request.channel, form): index
        for index, draft in drafts.items()
        if (given := draft.registration.request.external_id) is not None
        for form in (given, desk.vault.reference(given))
    }
    if not external:
        return
    known_before = await repository.by_external_ids(connection, list(external))
    for pair, row in known_before.items():
        index = external[pair]
        if bytes(row.request_hash) == drafts[index].registration.request_hash:
            drafts[index].answer = first_answer(row.ticket_id, row.ticket_no)
            drafts[index].known = True
        else:
            del drafts[index]
            results[index] = Invalid(
                "external_id_reused", "this channel used the external_id for another complaint", pointer="/external_id"
            )


async def _claim_keys(connection: Any, drafts: dict[int, _Draft], results: list[Any]) -> None:
    """Keep each draft's answer under its key; a key seen before gives its first answer, or a refusal.

    The last check before the tickets are stored: a kept answer always speaks of a ticket that exists.
    """
    keyed = {
        (draft.registration.principal.client, draft.registration.idempotency_key): index
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


async def _find_duplicates(connection: Any, drafts: Sequence[_Draft]) -> None:
    """Same customer, same category, earlier ticket still open (DET-04 and its like): review asks a person."""
    earlier: dict[tuple[str, str], TicketRef] = {}
    for row in await repository.open_of_customers(connection, {draft.customer_key for draft in drafts}):
        earlier.setdefault(
            (row.customer_key, row.category), TicketRef(ticket_id=row.ticket_id, ticket_no=row.ticket_no)
        )
    for draft in drafts:
        problem = (draft.customer_key, draft.registration.request.category)
        draft.duplicate = earlier.get(problem)
        earlier.setdefault(problem, TicketRef(ticket_id=draft.ticket_id, ticket_no=draft.ticket_no))


async def _store(desk: Desk, transaction: Transaction, drafts: Sequence[_Draft], now: datetime) -> None:
    tickets: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for draft in drafts:
        request, actor = draft.registration.request, draft.registration.principal.actor
        snapshot = assess(
            desk.pack, snapshot_of(desk, request, draft.ticket_no, draft.customer_key, draft.duplicate, now)
        )
        event_id = transaction.publish(
            TicketRegistered(ticket=snapshot, actor=actor), subject=draft.ticket_id, version=1, time=now
        )
        tickets.append(
            {
                "ticket_id": draft.ticket_id,
                "ticket_no": draft.ticket_no,
                "channel": request.channel,
                "external_id": _external_id(desk, request),
                "request_hash": draft.registration.request_hash,
                "status": TicketStatus.registered,
                "customer_key": draft.customer_key,
                "category": snapshot.category,
                "urgency_rank": snapshot.urgency.rank,
                "snapshot": Json.of(snapshot),
                "personal": desk.vault.seal(draft.ticket_id, personal_of(request).model_dump_json().encode()),
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
