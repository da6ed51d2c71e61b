"""Which parts a run has, what the load generator sends, and how its results are read."""

import json

import pytest

from tests.bench.bodies import Bodies, Posts
from tests.bench.outside import ticket_id
from tests.bench.parts import PARTS, chosen
from tests.bench.wire import Wire

# Ten minutes less what starting five stacks takes.
DEFAULT_RUN_SECONDS = 555


def test_names_choose_parts_and_none_is_the_default_run() -> None:
    assert [part.name for part in chosen("")] == [part.name for part in PARTS if part.by_default]
    assert [part.name for part in chosen("accept, limits")] == ["limits", "accept"]
    with pytest.raises(ValueError, match="no part nothing; there are"):
        chosen("nothing,accept")


def test_a_default_run_stays_under_ten_minutes_by_its_own_plan() -> None:
    assert sum(part.seconds for part in chosen("")) <= DEFAULT_RUN_SECONDS


def test_each_complaint_is_whole_about_600_bytes_and_of_another_customer() -> None:
    bodies = Bodies()
    made = [bodies.next() for _ in range(500)]
    phones = {json.loads(body)["customer"]["phone"] for _, body in made}
    assert len(phones) == 500
    assert all(len(phone) == 11 for phone in phones)
    assert all(550 <= len(body) <= 650 for _, body in made)
    assert len({(json.loads(body)["category"], json.loads(body)["place"]["city"]) for _, body in made}) > 100


def test_a_request_names_its_length_and_carries_a_key_only_where_one_is_given() -> None:
    request = Posts("/v1/tickets", "127.0.0.1:1", "secret", Bodies()).next()
    head, _, body = request.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert b"Authorization: Bearer secret" in head
    assert b"Idempotency-Key: bench-" in head
    assert b"Idempotency-Key" not in Posts("/v1/tickets", "127.0.0.1:1", None, Bodies()).next()


@pytest.mark.parametrize("cut", [1, 7, 40, 10_000])
def test_answers_are_read_whole_however_they_are_cut(cut: int) -> None:
    seen = []
    wire = Wire()
    wire.answered = lambda status, body: seen.append((status, body))
    first = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nfirst"
    second = b"HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n"
    for answer in (first, second):
        for start in range(0, len(answer), cut):
            wire.data_received(answer[start : start + cut])
    assert seen == [(201, b"first"), (409, b"")]


def test_the_ticket_is_found_in_an_answer() -> None:
    wanted = "019b0a51-7c80-7d35-9f11-3c2a8e64b7d0"
    assert ticket_id(b'{"ticket_id":"%b","ticket_no":"T1"}' % wanted.encode()) == wanted
