"""Spoilt records on the way from the log to the database: each is accounted for, and the stream goes on."""

from uuid import UUID

from aiokafka import AIOKafkaProducer
from hypothesis import strategies as st

from shared.contracts.asyncapi import examples
from shared.contracts.envelope import Envelope
from shared.contracts.registry import MODELS
from shared.contracts.topics import INTAKE, SLA, producers_of
from shared.ids import new_id
from tests.support.hostile import CANARY, hostile_json, sample, spoilt
from tests.support.messaging import NOW, Bench, send

RECORDS = 300
# Many bad records in a row stop a consumer, because then the fault would be ours.
GOOD_AFTER = 20

TYPES = [name for name, model in sorted(MODELS.items()) if model.TOPIC in (INTAKE, SLA)]  # type: ignore[attr-defined]
EXAMPLES = examples()
ACCOUNTED = (
    "SELECT count(DISTINCT subject) FROM (SELECT subject FROM inbox UNION ALL SELECT subject FROM parked_events"
    " UNION ALL SELECT convert_from(record_key, 'UTF8')::uuid FROM dead_letters) AS found WHERE subject = ANY(:ids)"
)


@st.composite
def records(draw: st.DrawFn) -> tuple[str, UUID, list[tuple[str, bytes]], bytes]:
    """Topic, subject, headers and value. Of three records one has a spoilt header besides."""
    name = draw(st.sampled_from(TYPES))
    topic, subject = MODELS[name].TOPIC, new_id()  # type: ignore[attr-defined]
    headers = Envelope(new_id(), f"/gongdan/{producers_of(topic)[0]}", name, subject, NOW, 1).headers()
    if draw(st.integers(0, 2)) == 0:
        place = draw(st.integers(0, len(headers) - 1))
        attribute, value = headers[place]
        if attribute != "ce_subject":
            headers[place] = (attribute, draw(spoilt(value)))
    return topic, subject, headers, draw(hostile_json(EXAMPLES[name]))


async def test_every_spoilt_record_is_applied_parked_or_dead_and_the_stream_goes_on(
    bench: Bench, producer: AIOKafkaProducer
) -> None:
    spoilt_ones = sample(records(), RECORDS)
    assert len(spoilt_ones) >= RECORDS // 2
    subjects = [subject for _, subject, _, _ in spoilt_ones]
    good = []
    async with bench.running():
        for number, (topic, subject, headers, value) in enumerate(spoilt_ones):
            await producer.send_and_wait(topic, key=str(subject).encode(), value=value, headers=headers)
            if number % GOOD_AFTER == 0:
                for publisher in ("intake", "sla"):
                    good.append(new_id())
                    await send(producer, good[-1], 1, publisher=publisher)
        await bench.until(ACCOUNTED, len(subjects), ids=subjects)
        await bench.until("SELECT count(*) FROM effects WHERE subject = ANY(:ids)", len(good) // 2, ids=good)
    dead = await bench.query("SELECT error FROM dead_letters")
    assert dead, "nothing was bad enough"
    assert not [row.error for row in dead if CANARY in row.error and "ce_specversion" not in row.error]
    assert not [row.error for row in dead if row.error.startswith("unexpected")]
