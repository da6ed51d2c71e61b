"""The load generator as a process, against a server that only answers."""

from collections.abc import AsyncIterator

import pytest

from tests.bench.generator import Generator, GeneratorFailed, beside, running_generator
from tests.support.parts import free_port


@pytest.fixture
async def generator() -> AsyncIterator[Generator]:
    async with running_generator() as running:
        yield running


@pytest.fixture
async def url() -> AsyncIterator[str]:
    port = free_port()
    address = f"http://127.0.0.1:{port}/v1/tickets"
    async with beside("tests.bench.null", address, str(port)):
        yield address


async def test_a_closed_loop_says_what_it_did_and_how_busy_it_was(generator: Generator, url: str) -> None:
    done = await generator.run("closed", url=url, connections=8, seconds=0.2)
    assert done["done"] > 100
    assert done["failures"] == {}
    assert done["rate"] == pytest.approx(done["done"] / done["seconds"])
    assert 0 < done["ms"]["p50"] <= done["ms"]["p99"] <= done["ms"]["max"]
    assert 0 < done["core_share"] <= 1.2
    assert [job["job"] for job in generator.jobs] == ["closed"]


async def test_a_paced_run_sends_what_it_was_asked_for(generator: Generator, url: str) -> None:
    done = await generator.run("paced", url=url, rate=200, seconds=0.5)
    assert done["done"] == 100
    assert done["seconds"] >= 0.49


async def test_a_job_that_fails_says_why_and_the_next_one_is_done(generator: Generator, url: str) -> None:
    with pytest.raises(GeneratorFailed, match=r"ConnectionRefusedError|OSError"):
        await generator.run("closed", url=f"http://127.0.0.1:{free_port()}/", connections=1, seconds=0.1)
    assert (await generator.run("closed", url=url, connections=1, seconds=0.1))["done"] > 0


async def test_a_server_that_does_not_start_is_said_to(url: str) -> None:
    taken = url.rpartition(":")[2].partition("/")[0]
    with pytest.raises(GeneratorFailed, match="ended with"):
        async with beside("tests.bench.null", f"http://127.0.0.1:{free_port()}/", taken):
            pass
