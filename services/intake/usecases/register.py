"""Registration, a batch in one transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from services.intake import repository
from services.intake.domain import TicketStatus
from services.intake.repository import NewTicket, Opening, OpenTicket
from services.intake.schemas import RegisterTicket
from services.intake.usecases.desk import Desk, check_channel, refuse_unknown
from services.intake.usecases.picture import personal_json, snapshot_of
from shared.contracts.intake import TicketRegistered
from shared.contracts.ticket import TicketRef
from shared.database.arrays import text_array
from shared.database.connection import Connection
from shared.database.engine import Database
from shared.errors import Invalid
from shared.http.auth import Principal
from shared.http.idempotency import keep_answers, kept_answers, request_hash, reused
from shared.ids import new_id
from shared.policy import assess, known
from shared.privacy import mask
from shared.telemetry.tracing import current_traceparent

CREATED = 201


class Registration(NamedTuple):
    """One accepted request, on its way into a batch."""

    request: RegisterTicket
    principal: Principal
    idempotency_key: str | None
    request_hash: bytes
    customer_key: str
    traceparent: str | None

    def identities(self) -> list[tuple[str, str, str]]:
        """By what it is known again."""
        found = []
        if self.idempotency_key is not None:
            found.append(("key", self.principal.client, self.idempotency_key))
        if self.request.external_id is not None:
            found.append(("external", self.request.channel, self.request.external_id))
        return found

    def touches(self) -> list[tuple[str, ...]]:
        """What no other registration may be about while this one is being stored: by its customer, duplicates are
        found."""
        return [("customer", self.customer_key), *self.identities()]


@dataclass(slots=True)
class _Draft:
    """A registration with its number, before it is stored."""

    registration: Registration
    ticket_id: str
    ticket_no: str
    answer: bytes
    duplicate: TicketRef | None = None
    known: bool = False


def registration_of(
    desk: Desk, request: RegisterTicket, principal: Principal, body: bytes, key: str | None
) -> Registration:
    """Raises `Forbidden` or `InvalidFields` when it cannot be taken."""
    check_channel(principal, request.channel)
    check_known(desk, request)
    customer_key = desk.vault.customer_key(request.customer.phone)
    return Registration(request, principal, key, request_hash(body), customer_key, current_traceparent())


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
    desk: Desk, database: Database, registrations: Sequence[Registration]
) -> list[bytes | Exception]:
    """Register a batch in one transaction: the answer of each, or the error of each.

    The same key or the same channel and external id again gets the first answer; with another body it is refused.
    Raises `UniqueViolationError` when another process stored one of these meanwhile; then no ticket is stored.
    """
    results: list[Any] = [None] * len(registrations)
    repeats = _repeats(registrations)
    batch = {index: each for index, each in enumerate(registrations) if index not in repeats}
    async with database.connection() as connection:
        drafts, opening = await _drafts(desk, connection, batch)
        if opening.externals_known:
            await _find_known_externals(desk, connection, drafts, results)
        if opening.keys_known:
            await _find_known_keys(connection, drafts, results)
        await _keep_known(connection, drafts.values())
        fresh = [draft for draft in drafts.values() if not draft.known]
        if fresh:
            now = desk.clock.business(opening.now)
            _mark_duplicates(fresh, opening.open_tickets)
            await repository.store_registered(connection, [_row(desk, draft, now) for draft in fresh], now, CREATED)
            database.published()
    for index, draft in drafts.items():
        results[index] = draft.answer
    for index, first in repeats.items():
        same = registrations[first].request_hash == registrations[index].request_hash
        results[index] = results[first] if same else reused()
    return results


def _repeats(registrations: Sequence[Registration]) -> dict[int, int]:
    """The registrations of a batch that repeat one before them → the one they repeat."""
    seen: dict[tuple[str, str, str], int] = {}
    repeats: dict[int, int] = {}
    for index, registration in enumerate(registrations):
        identities = registration.identities()
        first = next((seen[identity] for identity in identities if identity in seen), None)
        if first is None:
            seen.update(dict.fromkeys(identities, index))
        else:
            repeats[index] = first
    return repeats


async def _drafts(
    desk: Desk, connection: Connection, batch: Mapping[int, Registration]
) -> tuple[dict[int, _Draft], Opening]:
    """Each registration with its number, by its place in the batch; and what else is known from the start."""
    customers = {each.customer_key for each in batch.values()}
    keys = [key for each in batch.values() if (key := _key(each)) is not None]
    externals = [pair for each in batch.values() for pair in _externals(desk, each)]
    opening = await repository.opening(connection, len(batch), customers, keys, externals)
    day = desk.clock.business(opening.now).astimezone(desk.pack.tz).strftime("%Y%m%d")
    drafts = {
        index: _draft(registration, f"T{day}-{number:07d}")
        for (index, registration), number in zip(batch.items(), opening.numbers, strict=True)
    }
    return drafts, opening


def _draft(registration: Registration, ticket_no: str) -> _Draft:
    ticket_id = str(new_id())
    return _Draft(registration, ticket_id, ticket_no, first_answer(ticket_id, ticket_no))


def first_answer(ticket_id: str, ticket_no: str) -> bytes:
    """`TicketAccepted` of a registration as JSON, the same whenever it is given again."""
    return (
        f'{{"ticket_id":"{ticket_id}","ticket_no":"{ticket_no}","status":"{TicketStatus.registered}","version":1,'
        f'"links":{{"self":"/v1/tickets/{ticket_no}","timeline":"/v1/tickets/{ticket_no}/timeline"}}}}'
    ).encode()


def _external_id(desk: Desk, request: RegisterTicket) -> str | None:
    """The channel's reference as it is stored: not in clear when it holds somebody's number or name."""
    given = request.external_id
    if given is None or mask(given, request.customer.name) == given:
        return given
    return desk.vault.reference(given)


def _key(registration: Registration) -> tuple[str, str] | None:
    """Its client and `Idempotency-Key`, if it has one."""
    key = registration.idempotency_key
    return None if key is None else (registration.principal.client, key)


def _externals(desk: Desk, registration: Registration) -> list[tuple[str, str]]:
    """Its channel and `external_id` in both forms in which that may be stored; none if it has none."""
    channel, given = registration.request.channel, registration.request.external_id
    return [] if given is None else [(channel, given), (channel, desk.vault.reference(given))]


async def _find_known_externals(
    desk: Desk, connection: Connection, drafts: dict[int, _Draft], results: list[Any]
) -> None:
    """A channel's `external_id` seen before: the first answer for the same complaint, a refusal for another."""
    external = {pair: index for index, draft in drafts.items() for pair in _externals(desk, draft.registration)}
    for pair, row in (await repository.by_external_ids(connection, list(external))).items():
        index = external[pair]
        draft = drafts.get(index)
        if draft is None:
            # Refused by its other form.
            continue
        if row["request_hash"] == draft.registration.request_hash:
            draft.answer = first_answer(str(row["ticket_id"]), row["ticket_no"])
            draft.known = True
        else:
            del drafts[index]
            results[index] = Invalid(
                "external_id_reused", "this channel used the external_id for another complaint", pointer="/external_id"
            )


async def _find_known_keys(connection: Connection, drafts: dict[int, _Draft], results: list[Any]) -> None:
    """A key seen before: its first answer for the same request, a refusal for another."""
    keyed = {key: index for index, draft in drafts.items() if (key := _key(draft.registration)) is not None}
    for key, (first_hash, answer) in (await kept_answers(connection, keyed)).items():
        same = first_hash == drafts.pop(keyed[key]).registration.request_hash
        results[keyed[key]] = answer if same else reused()


async def _keep_known(connection: Connection, drafts: Iterable[_Draft]) -> None:
    """Keep the answers to complaints that are stored already under the new keys they came with."""
    rows = [
        (*key, draft.registration.request_hash, draft.answer)
        for draft in drafts
        if draft.known and (key := _key(draft.registration)) is not None
    ]
    if rows:
        await keep_answers(connection, rows, CREATED)


def _mark_duplicates(drafts: Sequence[_Draft], open_tickets: Sequence[OpenTicket]) -> None:
    """Same customer, same category, earlier ticket still open (DET-04 and its like): review asks a person."""
    earlier = {
        (customer_key, category): (ticket_id, ticket_no)
        for customer_key, category, ticket_id, ticket_no in open_tickets
    }
    for draft in drafts:
        first = earlier.setdefault(
            (draft.registration.customer_key, draft.registration.request.category), (draft.ticket_id, draft.ticket_no)
        )
        if first[0] != draft.ticket_id:
            draft.duplicate = TicketRef(ticket_id=UUID(first[0]), ticket_no=first[1])


def _row(desk: Desk, draft: _Draft, now: datetime) -> NewTicket:
    """Everything that is stored of a new ticket."""
    registration = draft.registration
    request, actor = registration.request, registration.principal.actor
    snapshot = assess(
        desk.pack, snapshot_of(desk, request, draft.ticket_no, registration.customer_key, draft.duplicate, now)
    )
    # Rendered once, for the row and for the event: 4 µs a ticket.
    rendered = snapshot.model_dump_json(exclude_none=True)
    details = {
        "channel": snapshot.channel,
        "kind": snapshot.kind,
        "category": snapshot.category,
        "urgency": snapshot.urgency.code,
        "classes": [mark.code for mark in snapshot.classes],
    }
    return NewTicket(
        ticket_id=draft.ticket_id,
        ticket_no=draft.ticket_no,
        channel=request.channel,
        external_id=_external_id(desk, request) or "",
        request_hash=registration.request_hash,
        customer_key=registration.customer_key,
        category=snapshot.category,
        urgency_rank=str(snapshot.urgency.rank),
        snapshot=rendered,
        personal=desk.vault.seal(UUID(draft.ticket_id), personal_json(request)),
        event_id=str(new_id()),
        actor=actor,
        rules=_rules((snapshot.urgency.rule, *(mark.rule for mark in snapshot.classes))),
        details=orjson.dumps(details).decode(),
        payload=TicketRegistered(ticket=snapshot, actor=actor).rendered(rendered),
        traceparent=registration.traceparent or "",
        client=registration.principal.client,
        key=registration.idempotency_key or "",
        answer=draft.answer,
    )


@lru_cache(maxsize=1024)
def _rules(applied: tuple[str, ...]) -> str:
    """Each once, as PostgreSQL takes them; few combinations come."""
    return text_array(rule for rule in dict.fromkeys(applied) if rule)
