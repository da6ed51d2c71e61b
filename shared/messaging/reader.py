"""The Kafka client of a consumer: made when needed, thrown away after any trouble, never waited for without end."""

import asyncio
import contextlib
import logging
import time

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from shared.messaging.broker import BrokerAddress
from shared.messaging.events import Record
from shared.messaging.patience import CancelledWithin, within

log = logging.getLogger(__name__)

PARTITION_FETCH_BYTES = 512 * 1024
REQUEST_TIMEOUT_MS = 10_000
STOP_SECONDS = 3.0
# How often the client's buffer is emptied into a batch that still gathers.
GATHER_SECONDS = 0.02
IDLE_FETCH_MS = 200


class Reader:
    """One client at a time. It assigns its partitions itself; the group's name is only for what is shown to Kafka."""

    def __init__(self, broker: BrokerAddress, group: str, fetch_max_wait_ms: int) -> None:
        self._broker = broker
        self._group = group
        self._fetch_max_wait_ms = fetch_max_wait_ms
        self._password: str | None = None
        self.client: AIOKafkaConsumer | None = None

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
            self.client = client
        return self.client

    def slow_down(self, idle: bool) -> None:
        """Let the broker hold empty fetches for longer while nothing comes: they were half of an idle service's work
        (2.4 % of a core, now 1.2). Kafka answers when something comes, the embedded broker at the end of the wait.
        """
        if self.client is not None:
            wait_ms = max(self._fetch_max_wait_ms, IDLE_FETCH_MS) if idle else self._fetch_max_wait_ms
            self.client._fetcher._fetch_max_wait_ms = wait_ms

    async def gather(self, records: list[Record], *, first_wait_ms: int, most: int, until: float) -> None:
        """Into `records`: what there is, waited for once, and what comes until then (`time.monotonic`). The fetches go
        on meanwhile: the embedded broker gives one record batch of a partition at a time, and Kafka 512 KiB."""
        client = await self.connected()
        fetched = await client.getmany(timeout_ms=first_wait_ms, max_records=most)
        while True:
            records += [Record.read(raw) for raws in fetched.values() for raw in raws]
            if not records or len(records) >= most or time.monotonic() >= until:
                return
            await asyncio.sleep(GATHER_SECONDS)
            fetched = await client.getmany(timeout_ms=0, max_records=most - len(records))

    async def discard(self) -> None:
        client, self.client = self.client, None
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
