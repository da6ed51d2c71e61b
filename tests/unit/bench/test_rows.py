"""The statements that copy stored tickets: what a copy has of its own, and what it keeps of its template."""

from tests.bench.rows import FILLED, Copies, Filled, statement

COPIES = Copies(1_000, 1_700_000_000_000)
TYPES = {
    "ticket_id": "uuid",
    "ticket_no": "text",
    "customer_key": "text",
    "status": "text",
    "accepted_at": "timestamp with time zone",
}


def made(filled: Filled, types: dict[str, str]) -> str:
    return statement(filled, types, COPIES, 32, 0, 99)


def test_a_copy_has_an_id_and_a_number_of_its_own_and_the_rest_of_its_template() -> None:
    text = made(FILLED["intake"][0], TYPES)
    assert text.startswith(
        "INSERT INTO tickets (ticket_id, ticket_no, customer_key, status, accepted_at)"
        " SELECT copy.id, copy.number, copy.customer, t.status"
    )
    for made_once in (f"{COPIES.id} AS id", f"{COPIES.number} AS number", f"{COPIES.customer} AS customer"):
        assert text.count(made_once) == 1


def test_a_moment_lies_as_long_behind_the_acceptance_as_that_of_the_template() -> None:
    text = made(FILLED["intake"][0], TYPES)
    assert "t.accepted_at + since.shift FROM" in text
    assert "(copy.at_ms - t.at_ms) * interval '1 millisecond' AS shift" in text


def test_what_is_kept_for_a_week_only_keeps_its_moments() -> None:
    assert "t.accepted_at FROM" in made(Filled("outbox", recent=True), TYPES)


def test_a_subject_that_is_text_gets_the_id_as_text() -> None:
    assert "SELECT copy.id::text FROM" in made(Filled("audit_trail", "subject"), {"subject": "text"})


def test_every_table_of_a_ticket_is_filled_by_the_column_that_names_it() -> None:
    assert {filled.subject for tables in FILLED.values() for filled in tables} == {"ticket_id", "subject"}
    assert all("ticket_no" in FILLED[service][0].instead for service in FILLED)
