"""The Kafka client of a consumer: made when needed, thrown away after any trouble, never waited for without end."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.messaging.broker import BrokerAddress
from shared.messaging.events import Record
from shared.messaging.merge import Merge
from shared.messaging.patience import CancelledWithin, within

log = logging.getLogger(__name__)

PARTITION_FETCH_BYTES = 512 * 1024
REQUEST_TIMEOUT_MS = 10_000
STOP_SECONDS = 3.0
# How long a batch that is not full waits for what is known to be there, in all and for one fetch.
MORE_SECONDS = 0.1
MORE_MS = 20
MOST_AT_ONCE = 10_000
IDLE_FETCH_MS = 200


class Reader:
    """One client at a time. It assigns its partitions itself; the group's name is only for what is shown to Kafka."""

    def __init__(self, broker: BrokerAddress, group: str, fetch_max_wait_ms: int) -> None:
        self._broker = broker
        self._group = group
        self._fetch_max_wait_ms = fetch_max_wait_ms
        self._password: str | None = None
        self.client: AIOKafkaConsumer | None = None
        self._came = Merge({})

    @property
    def outdated(self) -> bool:
        """The password changed: its connections would last, but a new one would be refused, and reads say nothing."""
        return self.client is not None and self._broker.current_password() != self._password

    async def connected(self) -> AIOKafkaConsumer:
        """The client. Raises what says that the broker is away."""
        if self.client is None:
            options = self._broker.options()
            self._password = options.get("sasl_plain_password")
            client = AIOKafkaConsumer(
                **options,
                group_id=self._group,
                enable_auto_commit=False,
                auto_offset_reset="none",
                fetch_max_wait_ms=self._fetch_max_wait_ms,
                max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
            )
            try:
                await within(REQUEST_TIMEOUT_MS / 1000, client.start())
            except BaseException:
                await stop_reader(client)
                raise
            # Not one partition again while another's records lie there: a fetch then shows all of them at one moment.
            client._fetcher._prefetch_backoff = REQUEST_TIMEOUT_MS / 1000
            self.client = client
        return self.client

    def slow_down(self, idle: bool) -> None:
        """Let the broker hold empty fetches for longer while nothing comes: they were half of an idle service's work
        (2.4 % of a core, now 1.2). Kafka answers when something comes, the embedded broker at the end of the wait.
        """
        if self.client is not None:
            wait_ms = max(self._fetch_max_wait_ms, IDLE_FETCH_MS) if idle else self._fetch_max_wait_ms
            self.client._fetcher._fetch_max_wait_ms = wait_ms

    async def assign(self, partitions: Collection[TopicPartition], offsets: Mapping[TopicPartition, int]) -> None:
        """Read these partitions and no others, those with an offset from there on."""
        client = await self.connected()
        client.assign(sorted(partitions))
        self.seek(offsets)

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Go on at these offsets. What came and was not given yet is forgotten, of every partition."""
        self._came = Merge(offsets)
        if self.client is not None:
            self._seek(self.client, offsets)

    async def gather(self, *, first_wait_ms: int, most: int, rest_until: float) -> list[Record]:
        """After a rest (until then, `time.monotonic`) what there is, the earliest first; it is waited for once.

        What is known to be there is fetched on for a moment: the embedded broker gives one record batch of a partition
        at a time, and Kafka 512 KiB. After a rest the first fetch is an old one, from before it.
        """
        client = await self.connected()
        old = (rest := rest_until - time.monotonic()) > 0
        if old:
            await asyncio.sleep(rest)
        wait_ms, until = 0 if self._came else first_wait_ms, time.monotonic() + MORE_SECONDS
        due, more = await self._due(client)
        while due < most:
            # Nothing is fetched while there is enough: what is held must not grow with the backlog.
            try:
                fetched = await client.getmany(timeout_ms=wait_ms, max_records=MOST_AT_ONCE)
            except Exception:
                # The client may have moved past records that it gave to nobody.
                self._seek(client, self._came.next)
                if not self._came:
                    raise
                # What came before is given first; the trouble comes again.
                return self._came.take(most)
            self._came.add(Record.read(raw) for raws in fetched.values() for raw in raws)
            due, more = await self._due(client)
            if not self._came or (due and (not (more or old) or time.monotonic() >= until)):
                break
            wait_ms, old = MORE_MS, False
        return self._came.take(min(due, most))

    def _seek(self, client: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        client.resume(*client.paused())
        for partition, offset in offsets.items():
            client.seek(partition, offset)

    async def _due(self, client: AIOKafkaConsumer) -> tuple[int, bool]:
        """How many of those that came can be given out, and whether more is worth waiting for. Those that are ahead of
        the others are not fetched meanwhile."""
        known = {partition: client.highwater(partition) for partition in client.assignment()}
        perhaps = [each for each, end in known.items() if end is not None and self._came.next.get(each, 0) < end]
        behind = [each for each in perhaps if await client.position(each) < known[each]]
        due, paused = self._came.due(behind), client.paused()
        if ahead := self._came.ahead - paused:
            client.pause(*ahead)
        if together := paused - self._came.ahead:
            client.resume(*together)
        return due, not self._came.silent.issuperset(behind)

    async def discard(self) -> None:
        client, self.client = self.client, None
        self._came = Merge({})
        if client is not None:
            await stop_reader(client)


async def stop_reader(client: AIOKafkaConsumer) -> None:
    """Stop it within a bound; one that does not stop is left behind."""
    try:
        await within(STOP_SECONDS, client.stop())
    except CancelledWithin:
        # It awaited the fetches that it had cancelled (aiokafka 0.14, Fetcher.close): its connections are still open.
        with contextlib.suppress(KafkaError, TimeoutError, OSError):
            await within(STOP_SECONDS, client._client.close())
    except (KafkaError, TimeoutError, OSError):
        log.info("a reader did not stop in time and was left behind")
