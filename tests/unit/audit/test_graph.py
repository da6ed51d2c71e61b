"""Replaying a subject's events: every way that the services take is legal, every other one is named."""

import pytest

from deploy.audit.evidence import Evidence
from deploy.audit.graph import GRAPHS, Told, replay, replay_all
from shared.contracts.registry import COMMANDS, MODELS
from shared.contracts.topics import producers_of

SENT, REPLIED = "order.dispatched", "order.replied"


def told(*types: str) -> list[Told]:
    """A type that ends in `!` was returned and kept by a rule."""
    return [Told(n, name.rstrip("!"), name.endswith("!")) for n, name in enumerate(types, start=1)]


@pytest.mark.parametrize(
    ("service", "types", "state"),
    [
        ("intake", ["ticket.registered", "ticket.supplemented", "ticket.withdrawn"], "withdrawn"),
        ("intake", ["ticket.registered", "ticket.answered", "ticket.erased"], "answered"),
        ("review", ["approval.requested", "review.held", "review.reclassified", "review.approved"], "approved"),
        ("review", ["review.returned", "review.returned", "review.approved", "review.held"], "waiting"),
        ("review", ["review.held", "review.merged", "approval.granted"], "merged"),
        ("dispatch", [SENT, "order.accepted", REPLIED, "callback.recorded", "ticket.closed"], "closed"),
        ("dispatch", [SENT, "order.transferred", SENT], "dispatched"),
        ("dispatch", [SENT, "order.returned", SENT, REPLIED, SENT], "dispatched"),
        ("dispatch", [SENT, "order.returned!", SENT], "dispatched"),
        ("dispatch", [SENT, REPLIED, "ticket.closed", "ticket.reopened", SENT, "order.recalled"], "ended"),
        ("dispatch", [SENT, "order.raised", "order.urged", "order.escalated", "ticket.closed"], "closed"),
        ("sla", ["clock.warned", "incident.joined", "clock.breached", "escalation.raised"], "watched"),
        ("sla", ["incident.opened", "incident.closed"], "closed"),
    ],
)
def test_the_ways_that_services_take_are_legal(service: str, types: list[str], state: str) -> None:
    found = replay(service, told(*types))
    assert (found.illegal, found.state) == (None, state)


@pytest.mark.parametrize(
    ("service", "types", "illegal"),
    [
        ("intake", ["ticket.withdrawn"], "version 1 ticket.withdrawn after new"),
        (
            "intake",
            ["ticket.registered", "ticket.answered", "ticket.withdrawn"],
            "version 3 ticket.withdrawn after answered",
        ),
        ("review", ["review.approved", "review.approved"], "version 2 review.approved after approved"),
        ("review", ["review.held", "review.merged", "review.held"], "version 3 review.held after merged"),
        ("dispatch", [SENT, "ticket.closed"], "version 2 ticket.closed after dispatched"),
        ("dispatch", [SENT, "order.accepted", "order.accepted"], "version 3 order.accepted after accepted"),
        ("dispatch", [SENT, "order.recalled", SENT], "version 3 order.dispatched after ended"),
        ("dispatch", [SENT, "order.transferred"], "the events stop at sending on"),
        ("dispatch", [SENT, "order.returned!"], "the events stop at sending on"),
        ("sla", ["incident.closed"], "version 1 incident.closed after new"),
        ("sla", ["ticket.registered"], "version 1 ticket.registered after new"),
    ],
)
def test_any_other_step_is_named(service: str, types: list[str], illegal: str) -> None:
    assert replay(service, told(*types)).illegal == illegal


def test_what_intake_shows_is_the_last_event_that_has_a_status() -> None:
    found = replay("dispatch", told(SENT, "order.accepted", "order.progressed"))
    assert (found.shown, found.rounds, found.reopened) == ("accepted", 1, False)
    found = replay("dispatch", told(SENT, REPLIED, "ticket.reopened", SENT))
    assert (found.shown, found.rounds, found.reopened) == ("dispatched", 2, True)


def test_every_event_of_a_service_has_its_place_in_the_graph() -> None:
    for name, model in MODELS.items():
        if name in COMMANDS or name == "replay.requested":
            continue
        (service,) = producers_of(model.TOPIC)  # type: ignore[attr-defined]
        assert name in GRAPHS[service], name
    assert sum(map(len, GRAPHS.values())) == len(MODELS) - len(COMMANDS) - 1


def test_a_subject_whose_beginning_is_past_retention_is_not_replayed() -> None:
    evidence = Evidence()
    rows = [("intake", 7, "old", 3, "ticket.supplemented"), ("intake", 8, "new", 1, "ticket.registered")]
    for service, number, subject, version, name in rows:
        values = [service, number, "own", "gongdan.intake", subject, version, f"e{number}", name, *[None] * 10]
        evidence.add("outbox", [values])
    replay_all(evidence)
    assert [tuple(row)[:3] for row in evidence.rows("SELECT * FROM replayed")] == [("intake", "new", "registered")]
    evidence.close()
