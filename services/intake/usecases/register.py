"""Registration, a batch in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from services.intake import repository
from services.intake.domain import TicketStatus
from services.intake.repository import NewTicket, OpenTicket
from services.intake.schemas import RegisterTicket
from services.intake.usecases.desk import Desk, refuse_unknown
from services.intake.usecases.picture import personal_json, snapshot_of
from shared.contracts.intake import TicketRegistered
from shared.contracts.ticket import TicketRef
from shared.database.arrays import text_array
from shared.database.columns import Json
from shared.database.engine import Transaction
from shared.errors import Invalid
from shared.http.auth import Principal
from shared.http.idempotency import reused
from shared.ids import new_id
from shared.policy import assess, known
from shared.privacy import mask
from shared.telemetry.tracing import begin_trace, current_traceparent

CREATED = 201


@dataclass(frozen=True, slots=True)
class Registration:
    """One accepted request, on its way into a batch."""

    request: RegisterTicket
    principal: Principal
    idempotency_key: str | None
    request_hash: bytes
    traceparent: str | None = field(default_factory=current_traceparent)


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
    results: list[Any] = [None] * len(registrations)
    repeats = _repeats(registrations)
    customers = {
        index: desk.vault.customer_key(registration.request.customer.phone)
        for index, registration in enumerate(registrations)
        if index not in repeats
    }
    opening = await repository.opening(connection, len(customers), set(customers.values()))
    now = desk.clock.business(opening.now)
    day = now.astimezone(desk.pack.tz).strftime("%Y%m%d")
    drafts = {
        index: _draft(registrations[index], f"T{day}-{number:07d}", customer_key)
        for (index, customer_key), number in zip(customers.items(), opening.numbers, strict=True)
    }

    await _find_known_externals(desk, connection, drafts, results)
    await _claim_keys(connection, drafts, results)
    fresh = [draft for draft in drafts.values() if not draft.known]
    if fresh:
        _mark_duplicates(fresh, opening.open_tickets)
        await _store(desk, transaction, fresh, now)
    for index, draft in drafts.items():
        results[index] = draft.answer
    for index, first in repeats.items():
        same = registrations[first].request_hash == registrations[index].request_hash
        results[index] = results[first] if same else reused()
    return results


def _identities(registration: Registration) -> list[tuple[str, str, str]]:
    """By what it is known again."""
    found = []
    if registration.idempotency_key is not None:
        found.append(("key", registration.principal.client, registration.idempotency_key))
    if registration.request.external_id is not None:
        found.append(("external", registration.request.channel, registration.request.external_id))
    return found


def _repeats(registrations: Sequence[Registration]) -> dict[int, int]:
    """The registrations of a batch that repeat one before them → the one they repeat."""
    seen: dict[tuple[str, str, str], int] = {}
    repeats: dict[int, int] = {}
    for index, registration in enumerate(registrations):
        identities = _identities(registration)
        first = next((seen[identity] for identity in identities if identity in seen), None)
        if first is None:
            seen.update(dict.fromkeys(identities, index))
        else:
            repeats[index] = first
    return repeats


def _draft(registration: Registration, ticket_no: str, customer_key: str) -> _Draft:
    ticket_id = new_id()
    return _Draft(registration, ticket_id, ticket_no, customer_key, first_answer(ticket_id, ticket_no))


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
    for pair, row in (await repository.by_external_ids(connection, list(external))).items():
        index = external[pair]
        if row["request_hash"] == drafts[index].registration.request_hash:
            drafts[index].answer = first_answer(row["ticket_id"], row["ticket_no"])
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
    for pair, (request_hash, answer) in (await repository.claim_keys(connection, claims, CREATED)).items():
        same = request_hash == drafts.pop(keyed[pair]).registration.request_hash
        results[keyed[pair]] = answer if same else reused()


def _mark_duplicates(drafts: Sequence[_Draft], open_tickets: Sequence[OpenTicket]) -> None:
    """Same customer, same category, earlier ticket still open (DET-04 and its like): review asks a person."""
    earlier = {
        (customer_key, category): (UUID(ticket_id), ticket_no)
        for customer_key, category, ticket_id, ticket_no in open_tickets
    }
    for draft in drafts:
        first = earlier.setdefault(
            (draft.customer_key, draft.registration.request.category), (draft.ticket_id, draft.ticket_no)
        )
        if first[0] != draft.ticket_id:
            draft.duplicate = TicketRef(ticket_id=first[0], ticket_no=first[1])


async def _store(desk: Desk, transaction: Transaction, drafts: Sequence[_Draft], now: datetime) -> None:
    rows: list[NewTicket] = []
    for draft in drafts:
        registration = draft.registration
        request, actor = registration.request, registration.principal.actor
        snapshot = assess(
            desk.pack, snapshot_of(desk, request, draft.ticket_no, draft.customer_key, draft.duplicate, now)
        )
        # Rendered once, for the row and for the event: 4 µs a ticket.
        rendered = Json.of(snapshot)
        event = TicketRegistered(ticket=snapshot, actor=actor)
        begin_trace(registration.traceparent)
        event_id = transaction.publish(
            event, subject=draft.ticket_id, version=1, time=now, payload=event.rendered(rendered)
        )
        rules = [snapshot.urgency.rule, *(mark.rule for mark in snapshot.classes)]
        details = {
            "channel": snapshot.channel,
            "kind": snapshot.kind,
            "category": snapshot.category,
            "urgency": snapshot.urgency.code,
            "classes": [mark.code for mark in snapshot.classes],
        }
        rows.append(
            NewTicket(
                draft.ticket_id,
                draft.ticket_no,
                request.channel,
                _external_id(desk, request),
                registration.request_hash,
                draft.customer_key,
                snapshot.category,
                snapshot.urgency.rank,
                rendered,
                desk.vault.seal(draft.ticket_id, personal_json(request)),
                event_id,
                actor,
                text_array(rule for rule in dict.fromkeys(rules) if rule),
                orjson.dumps(details).decode(),
            )
        )
    await repository.insert_registered(transaction.connection, rows, now)
