"""Acts on orders, many in one transaction: each with its own answer, refusal, key and trace."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text

from services.dispatch import repository, usecases
from services.dispatch.domain.order import OrderStatus, WorkOrder
from services.dispatch.schemas import Progress, Urge
from services.dispatch.usecases import Act, Held, carry_out
from shared import failpoints
from shared.errors import Conflict, DomainError, NotFound
from shared.http.idempotency import keep_answers, kept_answers
from shared.http.keys import Role
from shared.http.principal import Principal
from tests.support.parts import Databases
from tests.support.sites import NOBODYS, Site, dispatch_site, order

JINAN = Principal("1", Role.branch, "Jinan", "jinan", "c-jinan")
QINGDAO = Principal("2", Role.branch, "Qingdao", "qingdao", "c-qingdao")
SUPERVISOR = Principal("3", Role.supervisor, "Supervisor", None, "c-supervisor")

Verb = Callable[[WorkOrder, str, datetime], None]


@pytest_asyncio.fixture(scope="module")
async def dispatch(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with dispatch_site(await databases.fresh("dispatch"), tmp_path_factory.mktemp("dispatch")) as site:
        yield site


async def done(site: Site, *acts: Act, waits: bool = True) -> list[Any]:
    """The answers, read; and the refusals."""
    found = await carry_out(site.projection._desk, site.app.service.database, acts, waits=waits)
    return [orjson.loads(each) if isinstance(each, bytes) else each for each in found]


def act(
    site: Site,
    reference: Any,
    what: str | Verb = "accept",
    *,
    by: Principal = JINAN,
    key: str | None = None,
    body: bytes = b"",
    trace: str | None = None,
) -> Act:
    desk = site.projection._desk
    verbs: dict[str, Verb] = {
        "accept": lambda order, who, now: usecases.accept(desk, order, who, now),
        "progress": lambda order, who, now: usecases.progress(desk, order, Progress(note="已联系"), who, now),
        "urge": lambda order, who, now: usecases.urge(desk, order, Urge(reason="客户催办"), who, now),
    }
    return Act(by, reference, verbs[what] if isinstance(what, str) else what, key, body, trace)


@asynccontextmanager
async def held(site: Site, number: str) -> AsyncIterator[None]:
    """Somebody else has the order locked."""
    async with site.app.service.background.transaction() as transaction:
        await transaction.connection.execute(
            text("SELECT 1 FROM work_orders WHERE ticket_no = :no FOR UPDATE"), {"no": number}
        )
        yield


async def stored(site: Site, number: str) -> Any:
    async def run(connection: Any) -> Any:
        return (
            await connection.execute(text("SELECT * FROM work_orders WHERE ticket_no = :no"), {"no": number})
        ).first()

    return await site.app.service.database.read(run)


async def test_acts_on_one_order_follow_one_another(dispatch: Site) -> None:
    number, ticket_id = await order(dispatch)
    accepted, again, progressed = await done(
        dispatch, act(dispatch, number), act(dispatch, ticket_id), act(dispatch, ticket_id, "progress")
    )
    assert accepted["status"] == progressed["status"] == "accepted"
    assert isinstance(again, Conflict)
    assert await dispatch.published(number) == ["order.dispatched", "order.accepted", "order.progressed"]
    assert (await stored(dispatch, number)).version == 3


async def test_a_refusal_is_the_matter_of_one(dispatch: Site) -> None:
    """Whatever the verb did to the order before it was refused."""

    def half(order: WorkOrder, who: str, now: datetime) -> None:
        order.unit, order.rung = "nobody's", 9
        usecases.accept(dispatch.projection._desk, order, who, now)
        raise Conflict("changed_my_mind", "refused half-way")

    (number, _), (other, _) = await order(dispatch), await order(dispatch)
    results = await done(
        dispatch,
        act(dispatch, number, half),
        act(dispatch, NOBODYS),
        act(dispatch, number, by=QINGDAO),
        act(dispatch, other),
        act(dispatch, number, "urge", by=SUPERVISOR),
    )
    assert [type(each) for each in results] == [Conflict, NotFound, NotFound, dict, dict]
    assert await dispatch.published(number) == ["order.dispatched", "order.urged"]
    assert await dispatch.published(other) == ["order.dispatched", "order.accepted"]
    row = await stored(dispatch, number)
    assert (row.status, row.unit, row.rung, row.version) == ("dispatched", results[4]["unit"], 0, 2)


async def test_a_key_counts_once_within_a_batch_and_after_it(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    first, repeat, other = await done(
        dispatch,
        act(dispatch, number, key="once", body=b"a"),
        act(dispatch, number, key="once", body=b"a"),
        act(dispatch, number, key="once", body=b"b"),
    )
    assert first == repeat
    assert isinstance(other, DomainError)
    assert other.code == "idempotency_key_reused"
    later, misused, another_client = await done(
        dispatch,
        act(dispatch, number, key="once", body=b"a"),
        act(dispatch, number, key="once", body=b"b"),
        act(dispatch, number, "urge", by=SUPERVISOR, key="once", body=b"c"),
    )
    assert later == first
    assert misused.code == "idempotency_key_reused"
    assert another_client["ticket_no"] == number
    assert await dispatch.published(number) == ["order.dispatched", "order.accepted", "order.urged"]


async def test_a_refused_act_leaves_its_key_free(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    (refused,) = await done(dispatch, act(dispatch, number, by=QINGDAO, key="free"))
    assert isinstance(refused, NotFound)
    async with dispatch.app.service.database.transaction() as transaction:
        await keep_answers(transaction.connection, [(QINGDAO.client, "free", b"", b"{}")], 200)


async def test_events_keep_the_trace_of_their_own_request(dispatch: Site) -> None:
    made = [await order(dispatch) for _ in range(3)]
    traces = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 4)]
    await done(
        dispatch,
        *(act(dispatch, number, trace=trace) for (number, _), trace in zip(made, traces, strict=True)),
    )
    found = await dispatch.app.service.database.read(
        lambda connection: connection.fetch(
            "SELECT subject, traceparent FROM outbox WHERE type = 'order.accepted' AND topic = 'gongdan.dispatch'"
            " AND subject = ANY($1::uuid[])",
            [ticket_id for _, ticket_id in made],
        )
    )
    assert {row[0]: row[1] for row in found} == {
        ticket_id: trace for (_, ticket_id), trace in zip(made, traces, strict=True)
    }


async def test_a_key_stored_elsewhere_meanwhile_stores_nothing_of_the_batch(
    dispatch: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once more through the routes: the whole batch is done again and finds it."""
    number, _ = await order(dispatch)
    asked: list[int] = []

    async def late(connection: Any, keys: Any) -> Any:
        found = await kept_answers(connection, keys)
        if not asked:
            asked.append(len(keys))
            async with dispatch.app.service.background.transaction() as transaction:
                hashed = b"\x00" * 32
                await keep_answers(transaction.connection, [(*next(iter(keys)), hashed, b"{}")], 200)
        return found

    monkeypatch.setattr("services.dispatch.usecases.kept_answers", late)
    first, second = await asyncio.gather(
        dispatch.post("jinan", f"/v1/orders/{number}/accept", key="taken"),
        dispatch.post("supervisor", f"/v1/orders/{number}/urge", {"reason": "客户催办"}),
    )
    assert asked == [1]
    assert (first.status_code, first.json()["code"]) == (422, "idempotency_key_reused")
    assert second.status_code == 200
    assert await dispatch.published(number) == ["order.dispatched", "order.urged"]


async def test_nobody_waits_for_an_order_but_those_who_want_it(dispatch: Site) -> None:
    (number, _), (other, _) = await order(dispatch), await order(dispatch)
    async with held(dispatch, number):
        wants = asyncio.create_task(dispatch.post("jinan", f"/v1/orders/{number}/accept", key="held"))
        async with asyncio.timeout(5):
            for body in ("a", "b"):
                urged = await dispatch.post("supervisor", f"/v1/orders/{other}/urge", {"reason": body})
                assert urged.status_code == 200
                missing = await dispatch.post("supervisor", f"/v1/orders/{NOBODYS}/urge", {"reason": body})
                assert missing.status_code == 404
        assert not wants.done()
    assert (await wants).json()["status"] == "accepted"
    assert await dispatch.published(number) == ["order.dispatched", "order.accepted"]


async def test_who_asks_again_elsewhere_before_the_commit_gets_the_first_answer(dispatch: Site) -> None:
    """At another process, or at the successor of one that died: there the verb would be refused the second time."""
    number, _ = await order(dispatch)
    entered, go_on = asyncio.Event(), asyncio.Event()
    database = dispatch.app.service.database
    asked = act(dispatch, number, key="again", body=b"a")

    async def first() -> None:
        async with database.transaction() as transaction:
            orders = await repository.lock_referenced(transaction.connection, {number}, waits=True)
            entered.set()
            await go_on.wait()
            orders[number].status = OrderStatus.accepted
            await repository.save(transaction.connection, [orders[number]], dispatch.app.service.clock.now())
            await keep_answers(transaction.connection, [(JINAN.client, "again", b"a", b'{"first":true}')], 200)

    storing = asyncio.create_task(first())
    await entered.wait()
    (passed,) = await done(dispatch, asked, waits=False)
    assert isinstance(passed, Held)
    repeated = asyncio.create_task(done(dispatch, asked))
    await asyncio.sleep(0.2)
    assert not repeated.done()
    go_on.set()
    await storing
    assert await repeated == [{"first": True}]
    assert await done(dispatch, asked, waits=False) == [{"first": True}]


@pytest.mark.parametrize("gap", ["outbox.written", "outbox.committed"])
async def test_an_act_that_breaks_off_is_done_once_when_it_is_asked_for_again(
    dispatch: Site, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, _ = await order(dispatch)
    path, key = f"/v1/orders/{number}/accept", f"broken-{gap}"

    def break_off() -> None:
        raise RuntimeError("broken off")

    with monkeypatch.context() as patch:
        patch.setitem(failpoints._armed, gap, break_off)
        assert (await dispatch.post("jinan", path, key=key)).status_code == 500
    again, once_more = [await dispatch.post("jinan", path, key=key) for _ in range(2)]
    assert (again.status_code, again.json()["status"]) == (200, "accepted")
    assert once_more.content == again.content
    assert await dispatch.published(number) == ["order.dispatched", "order.accepted"]
