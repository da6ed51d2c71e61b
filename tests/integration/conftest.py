"""Parts shared by the integration tests: one PostgreSQL, and each broker once a session."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from sqlalchemy import text

from shared.database.engine import Database
from tests.support.issuer import Issuer, running_issuer
from tests.support.messaging import Bench
from tests.support.parts import Broker, Databases, must_have_kafka, running_broker, running_databases


@pytest.fixture(autouse=True)
def quiet_clients() -> Iterator[None]:
    """aiokafka reports every refused connection as an error; here brokers are stopped on purpose."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)


@pytest_asyncio.fixture(scope="session")
async def databases(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Databases]:
    async with running_databases(tmp_path_factory.mktemp("databases")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
async def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    """The same tests on the broker in memory and on real Apache Kafka; every module gets an empty log."""
    if request.param == "kafka":
        must_have_kafka()
    async with running_broker(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    """The broker in memory alone, for what is not about brokers; every module gets an empty log."""
    async with running_broker("embedded", tmp_path_factory.mktemp("embedded")) as running:
        yield running


@pytest_asyncio.fixture
async def bench(databases: Databases, broker: Broker) -> AsyncIterator[Bench]:
    url = await databases.fresh("review")
    database = Database(url, pool_size=8)
    async with database.transaction() as transaction:
        await transaction.connection.execute(
            text("CREATE TABLE effects (id bigserial, subject uuid, publisher text, version int)")
        )
    yield Bench(url, broker, database)
    await database.close()


@pytest_asyncio.fixture
async def producer(broker: Broker) -> AsyncIterator[AIOKafkaProducer]:
    sender = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
    await sender.start()
    yield sender
    await sender.stop()


@pytest.fixture(scope="session")
def shared_issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
def issuer(shared_issuer: Issuer) -> Iterator[Issuer]:
    """The same server each time; what a test changes of it is put back."""
    before = dict(shared_issuer.private), list(shared_issuer.documents)
    shared_issuer.asked = 0
    yield shared_issuer
    shared_issuer.private, shared_issuer.documents = before
    shared_issuer.status, shared_issuer.about, shared_issuer.delay_seconds = 200, {}, 0.0
