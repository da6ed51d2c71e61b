"""Bad days on the running stack: a service killed, the broker gone, PostgreSQL gone. Nothing accepted is lost, nothing
happens twice, health says what is wrong, and it heals by itself.
"""

import asyncio
import contextlib
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.support.journey import finish, read_branch, until, wait_for_status
from tests.support.stack import RunningStack
from tests.support.tickets import complaint

OUTAGE_SECONDS = 30.0
KILL_EVERY_SECONDS = 0.1
HEAL_SECONDS = 60.0
POSTS_PER_SECOND = 5


@dataclass
class Driver:
    """The front line during a fault: posts, and repeats with the same key whatever got no answer."""

    stack: RunningStack
    accepted: list[dict[str, Any]] = field(default_factory=list)
    unanswered: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with self.stack.client("front_line", "intake") as front:
            number = 0
            while not self._stop.is_set():
                number += 1
                body = complaint()
                key = f"{id(self)}-{number}"
                while True:
                    try:
                        answer = front.post("/v1/tickets", json=body, headers={"Idempotency-Key": key}, timeout=10)
                    except httpx.TransportError:
                        self.unanswered += 1
                    else:
                        if answer.status_code == 201:
                            self.accepted.append(answer.json())
                            break
                        assert answer.status_code == 503, answer.text
                        assert answer.headers["retry-after"]
                        self.unanswered += 1
                    time.sleep(0.3)
                time.sleep(1 / POSTS_PER_SECOND)

    @contextlib.contextmanager
    def posting(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def keep_down(stack: RunningStack, words: str, seconds: float) -> set[int]:
    """Kill -9 a program whenever the runner brings it back; the readiness answers seen meanwhile."""
    seen: set[int] = set()
    end = time.monotonic() + seconds
    next_look = time.monotonic() + 12
    while time.monotonic() < end:
        with contextlib.suppress(LookupError, ProcessLookupError):
            os.kill(stack.program_pid(words), signal.SIGKILL)
        if time.monotonic() > next_look:
            seen |= set(stack.ready().values())
            next_look = time.monotonic() + 3
        time.sleep(KILL_EVERY_SECONDS)
    return seen


def healed(stack: RunningStack) -> None:
    until(lambda: set(stack.ready().values()) == {200}, HEAL_SECONDS, pause=0.5)


def died(stack: RunningStack, since: int) -> list[str]:
    """The services that ended by themselves: they must wait an outage out."""
    return re.findall(r"(intake|review|dispatch|sla): DIED", stack.said[since:])


async def check_nothing_lost_nothing_twice(stack: RunningStack, driver: Driver) -> None:
    """Every accepted ticket exists once, was sent to its branch once, and three of them are brought to their end."""
    assert driver.accepted
    ids = [ticket["ticket_id"] for ticket in driver.accepted]
    assert len(set(ids)) == len(ids)
    for ticket in driver.accepted:
        wait_for_status(stack, ticket["ticket_no"], "dispatched")
    wanted = {ticket_id.encode() for ticket_id in ids}
    records = await read_branch(stack.bootstrap, "jinan", lambda found: wanted <= {record.key for record in found})
    events = {
        (record.key, dict(record.headers)["ce_id"])
        for record in records
        if record.key in wanted and dict(record.headers)["ce_type"] == b"order.dispatched"
    }
    assert set(Counter(key for key, _ in events).values()) == {1}
    for ticket in driver.accepted[:3]:
        finish(stack, ticket["ticket_no"], "jinan")
        wait_for_status(stack, ticket["ticket_no"], "closed")
    with stack.client("supervisor", "intake") as reader:
        for ticket in driver.accepted:
            entries = reader.get(f"/v1/tickets/{ticket['ticket_no']}/timeline").json()["entries"]
            counts = Counter(entry["type"] for entry in entries)
            assert counts["ticket.registered"] == counts["review.approved"] == counts["order.dispatched"] == 1


@pytest.mark.parametrize("service", ["intake", "review", "dispatch", "sla"])
async def test_a_killed_service_loses_nothing(stack: RunningStack, service: str) -> None:
    driver = Driver(stack)
    with driver.posting():
        await asyncio.sleep(2)
        before = stack.pid(service)
        os.kill(before, signal.SIGKILL)
        until(lambda: stack.pid(service) != before)
        await asyncio.sleep(2)
    assert f"{service}: DIED" in stack.said
    healed(stack)
    await check_nothing_lost_nothing_twice(stack, driver)


async def test_the_broker_away_for_30_seconds(stack: RunningStack) -> None:
    program = "deploy.local.broker" if stack.facts["kafka"]["kind"] == "embedded" else "kafka.Kafka"
    driver = Driver(stack)
    before = len(stack.said)
    with driver.posting():
        await asyncio.sleep(1)
        accepted_before = len(driver.accepted)
        seen = keep_down(stack, program, OUTAGE_SECONDS)
        accepted_meanwhile = len(driver.accepted) - accepted_before
    assert 503 in seen
    assert accepted_meanwhile > OUTAGE_SECONDS, "intake must not need the broker"
    assert died(stack, before) == []
    healed(stack)
    await check_nothing_lost_nothing_twice(stack, driver)


async def test_postgresql_away_for_30_seconds(stack: RunningStack) -> None:
    driver = Driver(stack)
    before = len(stack.said)
    with driver.posting():
        await asyncio.sleep(1)
        seen = keep_down(stack, "pginstall18/bin/postgres", OUTAGE_SECONDS)
        assert 503 in seen
        accepted = len(driver.accepted)
        healed(stack)
        until(lambda: len(driver.accepted) > accepted + 5)
    assert died(stack, before) == []
    await check_nothing_lost_nothing_twice(stack, driver)
