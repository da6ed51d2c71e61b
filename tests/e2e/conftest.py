"""Whole stacks for the end-to-end tests, each started by the real runner in a folder of its own."""

from collections.abc import Iterator

import pytest

from tests.support.parts import must_have_kafka
from tests.support.stack import RunningStack, running_stack

EMBEDDED_PORTS = 21_000
KAFKA_PORTS = 21_400


@pytest.fixture(scope="module", params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The four services on each broker."""
    if request.param == "kafka":
        must_have_kafka()
    ports = EMBEDDED_PORTS if request.param == "embedded" else KAFKA_PORTS
    folder = tmp_path_factory.mktemp("stack") / "data"
    with running_stack(folder, ports, broker=request.param) as running:
        yield running
