"""What is written without the models that describe it reads back as them."""

import orjson
import pytest

from services.intake.schemas import Personal, RegisterTicket
from services.intake.usecases.picture import contact_of, personal_json
from services.intake.usecases.register import first_answer
from shared.contracts.intake import TicketRegistered
from shared.database.columns import Json
from shared.ids import new_id
from tests.support.snapshots import snapshot
from tests.support.tickets import complaint


@pytest.mark.parametrize(
    "changes", [{}, {"place": None}, {"customer": {"name": '张"三'}, "elements": {"since": None, "location": 1.5}}]
)
def test_the_personal_part_reads_back_as_it_was_given(changes: dict[str, object]) -> None:
    request = RegisterTicket.model_validate(complaint(**changes))
    found = Personal.model_validate_json(personal_json(request))
    assert (found.phone, found.name, found.content) == (request.customer.phone, request.customer.name, request.content)
    assert found.address == (request.place.address if request.place else None)
    assert found.elements == request.elements


def test_an_event_rendered_from_its_ticket_is_the_event() -> None:
    event = TicketRegistered(ticket=snapshot(content='家里"信号"差\n'), actor='front_line:"大厅"')
    rendered = event.rendered(Json.of(event.ticket))
    assert TicketRegistered.model_validate_json(rendered) == event
    assert orjson.loads(rendered) == orjson.loads(event.model_dump_json(exclude_none=True))


def test_the_first_answer_begins_with_what_a_line_of_an_import_answers() -> None:
    assert list(orjson.loads(first_answer(str(new_id()), "T20261122-0000012")))[:3] == [
        "ticket_id",
        "ticket_no",
        "status",
    ]


@pytest.mark.parametrize(
    ("content", "other"),
    [
        ("请打 13900000001", True),
        ("请打 13800000000", False),
        ("请打 86 13900000001。", True),
        ("卡号 6213900000001", False),
        ("订单 139000000012", False),
        ("23900000001", False),
        ("", False),
    ],
)
def test_another_phone_in_the_text_is_seen(content: str, other: bool) -> None:
    assert contact_of("13800000000", None, None, content).other_in_text is other


def test_a_contact_phone_differs_when_its_digits_do() -> None:
    assert not contact_of("138-0000 0000", "+86 13800000000", None, "").differs
    assert contact_of("13800000000", "13800000001", None, "13800000001").differs
    assert not contact_of("13800000000", "13800000001", None, "13800000001").other_in_text
    assert contact_of("13800000000", None, None, "").number_prefix == "138"
