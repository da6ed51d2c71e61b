"""The people of the demo, as real clients: front line, reviewers, callback staff and supervisor over HTTP, and a branch
for each city over Kafka. `Ledger` keeps what was read from the topics, so that scenes can wait for what must come.

Nobody here looks into a database or into another process.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from deploy.kafka.access import ADMIN, OPERATOR
from deploy.local.run_file import broker_of, reply_key_of
from shared.contracts.envelope import Envelope, MalformedEnvelope, read_envelope
from shared.contracts.signature import SIGNATURE, signature
from shared.contracts.topics import BRANCH_REPLIES, DISPATCH, INTAKE, REVIEW, SLA, branch_topic, topic_file
from shared.ids import new_id

PATIENCE_SECONDS = 30.0
READ_SECONDS = 0.2
POLL_SECONDS = 0.1
PHONE_TRIES = 50
OWN_TOPICS = (INTAKE, REVIEW, DISPATCH, SLA)


class NotSeen(Exception):
    """Something that must happen did not; the text is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One record from a topic. `time` is business time."""

    topic: str
    event_id: UUID
    type: str
    subject: str
    time: datetime
    data: dict[str, Any]

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that the event names as its reason; at a registration, those of the classes and the urgency."""
        if basis := self.data.get("basis"):
            return tuple(basis["rules"])
        if self.type == "ticket.registered":
            ticket = self.data["ticket"]
            return (*(mark["rule"] for mark in ticket["classes"]), ticket["urgency"]["rule"])
        return ()


Where: TypeAlias = Callable[[Seen], bool]


class Ledger:
    """Everything read so far, in the order of reading. A record that comes twice is kept once."""

    def __init__(self, tell: Callable[[Seen], None]) -> None:
        self.entries: list[Seen] = []
        self._known: set[tuple[str, UUID]] = set()
        self._changed = asyncio.Condition()
        self._tell = tell

    async def add(self, seen: Seen) -> bool:
        """Whether it was new."""
        if (seen.topic, seen.event_id) in self._known:
            return False
        self._known.add((seen.topic, seen.event_id))
        self._tell(seen)
        async with self._changed:
            self.entries.append(seen)
            self._changed.notify_all()
        return True

    def of(self, where: Where) -> list[Seen]:
        return [seen for seen in self.entries if where(seen)]

    async def wait(self, where: Where, seconds: float, nth: int = 1) -> Seen | None:
        """The n-th record of that kind, or None when it did not come in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                while len(found := self.of(where)) < nth:
                    await self._changed.wait()
                return found[nth - 1]
        return None


@dataclass(slots=True)
class Case:
    """One complaint of the demo."""

    ticket_id: str
    ticket_no: str
    body: dict[str, Any]


Conduct: TypeAlias = Callable[["Branch", Seen], Awaitable[None]]
"""What a branch does with one ticket, whenever a record of it comes."""


class Branch:
    """One city company (分公司): reads its own topic, and answers with commands on `gongdan.branch.replies`."""

    def __init__(self, town: "Town", name: str) -> None:
        self._town = town
        self.name = name

    async def work(self, consumer: AIOKafkaConsumer) -> None:
        """Read and act until cancelled; each ticket is handled as its scene arranged."""
        async with asyncio.TaskGroup() as hands:
            async for seen in self._town.read(consumer):
                hands.create_task(self._handle(seen))

    async def _handle(self, seen: Seen) -> None:
        conduct = await self._town.conduct_of(seen.subject)
        if conduct is not None:
            try:
                await conduct(self, seen)
            except KafkaError as error:
                self._town.trouble(f"{self.name} could not send its command: {type(error).__name__}")

    async def command(self, kind: str, subject: str, data: Mapping[str, Any] | None = None) -> None:
        """Send one command (CloudEvents in binary mode, keyed by the ticket)."""
        envelope = Envelope(
            new_id(), f"/gongdan/branch/{self.name}", kind, UUID(subject), self._town.now(), schema_version=1
        )
        value = json.dumps({"branch": self.name, "actor": "值班员", **(data or {})}).encode()
        headers = envelope.headers()
        if (key := reply_key_of(self._town.run, self.name)) is not None:
            headers.append((SIGNATURE, signature(key, dict(headers), value)))
        await self._town.producer.send_and_wait(BRANCH_REPLIES, value, key=subject.encode(), headers=headers)

    async def settle(self, subject: str, satisfaction: str = "satisfied", network: str | None = None) -> None:
        """Answer with the five elements of GDM-T8."""
        reply = {
            "process": "已核实情况并处理",
            "content": "已处理完毕并向客户说明",
            "satisfaction": satisfaction,
            "replier": "值班员",
            "replied_at": self._town.now().isoformat(),
            "network": network,
        }
        await self.command("order.reply", subject, {"reply": reply})


class Office:
    """HTTP towards the four services, with the key of each role."""

    def __init__(self, run: Mapping[str, Any], client: httpx.AsyncClient) -> None:
        self._run = run
        self._client = client

    async def ask(self, role: str, service: str, path: str, body: Any = None, *, method: str = "POST") -> Any:
        """The parsed answer. A request is safe to repeat by its key, so an unanswered one is tried three times.

        Raises: `NotSeen` with the service's own words when it refuses.
        """
        headers = {"Authorization": f"Bearer {self._run['keys'][role]}"}
        if method == "POST":
            headers["Idempotency-Key"] = str(uuid4())
        url = self._run["services"][service]["url"] + path
        for patience in (1.0, 2.0, None):
            try:
                answer = await self._client.request(method, url, json=body, headers=headers)
            except httpx.TransportError as error:
                problem = f"{service} does not answer ({type(error).__name__})"
            else:
                if answer.is_success:
                    return answer.json()
                problem = f"{answer.status_code} {answer.json().get('code')}: {answer.json().get('detail')}"
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    break
            if patience is not None:
                await asyncio.sleep(patience)
        raise NotSeen(f"{method} {path} as {role}: {problem}")

    async def get(self, role: str, service: str, path: str) -> Any:
        return await self.ask(role, service, path, method="GET")


@dataclass
class Town:
    """Everybody together. `run` is the content of `run.json`."""

    run: Mapping[str, Any]
    ledger: Ledger
    chance: random.Random
    adopted: Callable[[Case, bool], None]
    trouble: Callable[[str], None]
    office: Office = field(init=False)
    producer: AIOKafkaProducer = field(init=False)
    branches: dict[str, Branch] = field(default_factory=dict)
    _conducts: dict[str, "asyncio.Future[Conduct | None]"] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _given: set[str] = field(default_factory=set)

    @property
    def scale(self) -> float:
        return float(self.run["time_scale"])

    def now(self) -> datetime:
        """Business time."""
        origin = datetime.fromisoformat(self.run["time_origin"])
        real = datetime.now(UTC)
        return real if self.scale == 1 else origin + (real - origin) * self.scale

    def real_seconds(self, hours: float) -> float:
        """How long so many hours of business take."""
        return hours * 3600 / self.scale

    # ---- coming and going --------------------------------------------------------------------------------------------

    async def open(self, branches: Iterable[str]) -> list[Coroutine[Any, Any, None]]:
        """Connect everybody. Gives what must run beside the scenes: the reader of our topics, and the branches."""
        client = await self._stack.enter_async_context(httpx.AsyncClient(timeout=20, trust_env=False))
        self.office = Office(self.run, client)
        self.producer = AIOKafkaProducer(**broker_of(self.run, ADMIN).options(), acks="all")
        await self.producer.start()
        self._stack.push_async_callback(self.producer.stop)
        partitions = {topic.name: topic.partitions for topic in topic_file().topics}
        jobs = [self._follow(await self._consumer({name: partitions[name] for name in OWN_TOPICS}))]
        for name in branches:
            self.branches[name] = Branch(self, name)
            jobs.append(self.branches[name].work(await self._consumer({branch_topic(name): 1})))
        return jobs

    async def close(self) -> None:
        await self._stack.aclose()

    async def _consumer(self, partitions: Mapping[str, int]) -> AIOKafkaConsumer:
        """A reader of what comes from now on."""
        consumer = AIOKafkaConsumer(
            **broker_of(self.run, OPERATOR).options(),
            enable_auto_commit=False,
            auto_offset_reset="latest",
            fetch_max_wait_ms=int(READ_SECONDS * 500),
        )
        await consumer.start()
        self._stack.push_async_callback(consumer.stop)
        assigned = [TopicPartition(topic, number) for topic, count in partitions.items() for number in range(count)]
        consumer.assign(assigned)
        for partition, end in (await consumer.end_offsets(assigned)).items():
            consumer.seek(partition, end)
        return consumer

    async def read(self, consumer: AIOKafkaConsumer) -> Any:
        """Every new record, once it stands in the ledger. A broker that is away is waited for."""
        while True:
            try:
                fetched = await consumer.getmany(timeout_ms=int(READ_SECONDS * 1000))
            except KafkaError:
                await asyncio.sleep(READ_SECONDS)
                continue
            for records in fetched.values():
                for record in records:
                    seen = _seen(record)
                    if seen is not None and await self.ledger.add(seen):
                        yield seen

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        async for _ in self.read(consumer):
            pass

    # ---- what scenes do ----------------------------------------------------------------------------------------------

    async def fresh_phone(self) -> str:
        """An invented number that this stack knows no ticket of."""
        for _ in range(PHONE_TRIES):
            phone = f"138000{self.chance.randrange(100_000):05d}"
            if phone in self._given:
                continue
            self._given.add(phone)
            found = await self.office.ask("supervisor", "intake", "/v1/tickets:search", {"phone": phone})
            if not found["items"]:
                return phone
        raise NotSeen("no unused phone number was found: begin with a new data folder (DATA=…)")

    async def register(self, body: dict[str, Any], conduct: Conduct | None, *, quiet: bool = False) -> Case:
        """The front line takes a complaint in; `conduct` is what a branch will do with it."""
        answer = await self.office.ask("front_line", "intake", "/v1/tickets", body)
        case = Case(answer["ticket_id"], answer["ticket_no"], body)
        self.adopted(case, quiet)
        self._conduct(case.ticket_id).set_result(conduct)
        return case

    async def conduct_of(self, subject: str) -> Conduct | None:
        """What was arranged for this ticket; None for one that is not of the demo. The order can be faster than the
        front line's answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.shield(self._conduct(subject))
        return None

    def _conduct(self, subject: str) -> "asyncio.Future[Conduct | None]":
        return self._conducts.setdefault(subject, asyncio.get_running_loop().create_future())

    async def poll(self, what: str, ask: Callable[[], Awaitable[Any]], hours: float = 0) -> Any:
        """The first truthy answer. Raises: `NotSeen`."""
        deadline = time.monotonic() + PATIENCE_SECONDS + self.real_seconds(hours)
        while not (answer := await ask()):
            if time.monotonic() > deadline:
                raise NotSeen(f"{what}: not so within {PATIENCE_SECONDS + self.real_seconds(hours):.0f} s")
            await asyncio.sleep(POLL_SECONDS)
        return answer


def _seen(record: Any) -> Seen | None:
    try:
        envelope = read_envelope(record.headers)
        data = json.loads(record.value)
    except (MalformedEnvelope, ValueError, TypeError):
        return None
    return Seen(record.topic, envelope.event_id, envelope.type, str(envelope.subject), envelope.time, data)
