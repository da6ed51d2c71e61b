"""The people of a run: front line, reviewers, branches, callback staff. Each looks at what waits and acts on it.

What one does with a ticket is decided by the run's seed and the ticket, so that the many ways through the platform
all occur. In the last phase (`Town.closing`) everybody takes the shortest way to the ticket's end.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.faults.complaints import CITIES, SUPPLEMENT, Complaint, Complaints
from tests.faults.office import Office, Person
from tests.support.journey import reply_body

AT_ONCE = 100
WITHDRAWN_SHARE = 0.03
HELD_SHARE = 0.06
HELD_SECONDS = 90.0
LOOK_SECONDS = 1.0
TICKET_NUMBER = re.compile(r"T\d{8}-\d{7}")

FRONT = [Person(f"front_line_{number}", "front_line") for number in range(4)]
REVIEWERS = [Person(f"reviewer_{number}", "reviewer") for number in range(2)]
CALLBACK = Person("callback", "callback")
SUPERVISOR = Person("supervisor", "supervisor")
KAFKA_BRANCHES = CITIES[:4]
BRANCHES = {city: Person(f"branch_{city}", "branch", city) for city in CITIES}


@dataclass
class Town:
    """Everybody together, and what they know."""

    office: Office
    seed: int
    rate: float
    taking: bool = True
    acting: bool = True
    registered: int = 0
    refused: list[str] = field(default_factory=list)
    _last_phase: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: set[str] = field(default_factory=set)
    _since: dict[str, float] = field(default_factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def chance(self, *about: Any) -> random.Random:
        """The same for the same ticket and question in every run of a seed."""
        return random.Random(f"{self.seed} {about}")

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Do it beside everything else; a name that is busy is left alone."""
        if name in self._busy:
            work.close()
            return
        self._busy.add(name)
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def over(done: asyncio.Task[Any]) -> None:
            self._tasks.discard(done)
            self._busy.discard(name)

        task.add_done_callback(over)

    @property
    def closing(self) -> bool:
        return self._last_phase.is_set()

    def close(self) -> None:
        """From now on everything is brought to its end."""
        self.taking, self.acting = False, True
        self._last_phase.set()

    async def take_time(self, seconds: float) -> None:
        """Wait, but not beyond the beginning of the last phase."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._last_phase.wait(), seconds)

    @property
    def busy(self) -> int:
        return len(self._tasks)

    def waited(self, what: str) -> float:
        """Seconds since this was asked for the first time."""
        return time.monotonic() - self._since.setdefault(what, time.monotonic())

    def first(self, what: str) -> bool:
        """Whether this is asked for the first time."""
        known = what in self._since
        self.waited(what)
        return not known

    async def look(self, step: Callable[[], Awaitable[None]]) -> None:
        """Look for work again and again."""
        while True:
            if self.acting:
                await step()
            await asyncio.sleep(LOOK_SECONDS)

    # ---- front line --------------------------------------------------------------------------------------------------

    async def take_complaints(self) -> None:
        """New complaints at the rate, each from one of several clients, as long as the town is taking."""
        complaints, chance = Complaints(self.seed), random.Random(f"arrivals {self.seed}")
        due = time.monotonic()
        for number in range(1, 1_000_000_000):
            due += chance.expovariate(self.rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not self.taking:
                return
            complaint = complaints.next()
            if self.busy < AT_ONCE:
                self.start(f"complaint {number}", self._register(FRONT[number % len(FRONT)], complaint))

    async def _register(self, front: Person, complaint: Complaint) -> None:
        answer = await self.office.do(
            front, "register", "intake", "/v1/tickets", complaint.body, canaries=complaint.canaries
        )
        if not answer.ok:
            self.refused.append(f"{answer.status} {answer.body.get('code')}")
            return
        self.registered += 1
        number = answer.body["ticket_no"]
        chance = self.chance("withdraw", number)
        if chance.random() < WITHDRAWN_SHARE:
            await self.take_time(chance.uniform(0, 15))
            await self.act(front, "withdraw", "intake", f"/v1/tickets/{number}/withdraw", number, {"reason": "已恢复"})

    async def supplement_returned(self) -> None:
        for ticket in await self._listed(SUPERVISOR, "intake", "/v1/tickets", status="returned"):
            number = ticket["ticket_no"]
            path = f"/v1/tickets/{number}/supplement"
            self.start(number, self.act(FRONT[0], "supplement", "intake", path, number, SUPPLEMENT))

    # ---- review ------------------------------------------------------------------------------------------------------

    async def review_waiting(self) -> None:
        for review in await self._listed(REVIEWERS[0], "review", "/v1/reviews"):
            self.start(review["ticket_no"], self._decide(review))

    async def _decide(self, review: dict[str, Any]) -> None:
        number = review["ticket_no"]
        chance = self.chance("review", number, review["round"])
        reviewer = chance.choice(REVIEWERS)
        path = f"/v1/reviews/{number}"
        if chance.random() < 0.3:
            await self.act(reviewer, "claim", "review", f"{path}/claim", number)
        what = chance.random()
        earlier = {found for text in map(str, review["findings"]) for found in TICKET_NUMBER.findall(text)} - {number}
        if earlier and what < 0.5:
            if await self.act(reviewer, "merge", "review", f"{path}/merge", number, {"into": min(earlier)}):
                return
        elif what > 0.85 and not self.closing:
            body = {"reason_code": "RT_ELEMENTS_INCOMPLETE", "missing": ["location"]}
            await self.act(reviewer, "return", "review", f"{path}/return", number, body)
            return
        chosen = {"branch": chance.choice(CITIES)} if review["round"] > 1 else {}
        await self.act(reviewer, "approve", "review", f"{path}/approve", number, chosen)

    # ---- branches and callbacks --------------------------------------------------------------------------------------

    async def work_orders(self, branch: str) -> None:
        """Orders in the hands of a branch that works over HTTP; in the end, of every branch."""
        if branch in KAFKA_BRANCHES and not self.closing:
            return
        person = BRANCHES[branch]
        for status in ("dispatched", "accepted"):
            for order in await self._listed(person, "dispatch", "/v1/orders", status=status):
                self.start(order["ticket_no"], self._handle(person, order))

    async def _handle(self, person: Person, order: dict[str, Any]) -> None:
        number, chance = order["ticket_no"], self.chance("order", order["ticket_no"], order["round"])
        held, what = chance.random() < HELD_SHARE, chance.random()
        if self.closing:
            what = 1.0
        elif held and self.waited(f"{number} {order['round']}") < HELD_SECONDS:
            return
        verb, body = "accept", None
        if order["status"] == "accepted":
            if what < 0.1 and self.first(f"{number} progress"):
                await self.order(person, "progress", number, {"note": "已派人上门"})
            verb, body = "reply", reply_body(chance.choice(["satisfied", "not_called"]))
        elif what < 0.03:
            verb, body = (
                "transfer",
                {"to_branch": chance.choice([c for c in CITIES if c != person.branch]), "reason": "不属本地"},
            )
        elif what < 0.06 and order["round"] == 1:
            verb, body = "return", {"reason_code": "RT_NOT_OURS", "note": "号码属其他地市"}
        elif what < 0.07:
            verb, body = "raise", {"to": "province", "reason": "需省公司协调"}
        await self.order(person, verb, number, body, action="return_order" if verb == "return" else verb)

    async def answer_raised(self) -> None:
        for order in await self._listed(SUPERVISOR, "dispatch", "/v1/orders", status="raised"):
            self.start(order["ticket_no"], self.order(SUPERVISOR, "reply", order["ticket_no"], reply_body()))

    async def call_back(self) -> None:
        for order in await self._listed(CALLBACK, "dispatch", "/v1/callbacks"):
            self.start(order["ticket_no"], self._call(order))

    async def _call(self, order: dict[str, Any]) -> None:
        number = order["ticket_no"]
        if order["needs_person"]:
            await self.order(CALLBACK, "close", number, {"outcome": "unsatisfied"})
            return
        chance = self.chance("callback", number, order["round"], order["attempts"])
        outcome = (
            "satisfied" if self.closing else chance.choices(["satisfied", "unsatisfied", "not_reached"], [8, 1, 1])[0]
        )
        await self.order(CALLBACK, "callback", number, {"outcome": outcome})

    # ---- the ways to do it -------------------------------------------------------------------------------------------

    async def order(self, person: Person, verb: str, number: str, body: Any = None, action: str | None = None) -> None:
        await self.act(person, action or verb, "dispatch", f"/v1/orders/{number}/{verb}", number, body)

    async def act(self, person: Person, action: str, service: str, path: str, ticket: str, body: Any = None) -> bool:
        """Whether it was done: a no is an answer too, for somebody else may have been faster."""
        return (await self.office.do(person, action, service, path, body, ticket=ticket)).ok

    async def _listed(self, person: Person, service: str, path: str, **query: str) -> Iterable[dict[str, Any]]:
        page = await self.office.read(person, service, path, limit=50, **query)
        return page["items"] if page else ()

    def looks(self) -> list[Callable[[], Awaitable[None]]]:
        """Everything that somebody looks for."""

        def at(branch: str) -> Callable[[], Awaitable[None]]:
            return lambda: self.work_orders(branch)

        desks = [self.supplement_returned, self.review_waiting, self.answer_raised, self.call_back]
        return [*desks, *(at(branch) for branch in CITIES)]
