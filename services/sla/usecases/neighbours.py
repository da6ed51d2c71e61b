"""What lies near the complaints of a batch of events: incidents, and complaints that may become members with them.

A complaint can draw in others from beyond its own hour: they lie in a chain, each within the quiet time of the one
before, and what connects them to an incident comes last. So the reading follows the chain to its end.
"""

from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from services.sla.domain import detection
from services.sla.domain.detection import Neighbourhood
from services.sla.domain.records import Rulebook
from services.sla.repository import near
from services.sla.repository.near import Span
from shared.database.connection import Connection
from shared.policy import Complaint, batch_members

STEP = timedelta(microseconds=1)
"""The smallest step of stored time; the reading is strictly between."""
WIDEST = timedelta(hours=24)
"""Times further apart are read apart, so that what is read of each stays within its limit."""


async def neighbourhoods(
    connection: Connection, book: Rulebook, fresh: Mapping[str, Mapping[UUID, Complaint]]
) -> tuple[dict[str, Neighbourhood], set[UUID]]:
    """What lies near these complaints, by problem, and the stored ones that may become members. The problems are
    locked. For a complaint that an incident covers nothing is counted, however many there are of it."""
    if not fresh:
        return {}, set()
    window, quiet = detection.window(book), detection.quiet(book)
    clusters = [
        (key, first, last)
        for key, group in fresh.items()
        for first, last in _clusters([each.at for each in group.values()], window + max(window, quiet))
    ]
    # An incident covers the moment that is just the quiet time after it too.
    spans = [(key, first - window, last + max(window, quiet) + STEP) for key, first, last in clusters]
    reached = [(first - window - quiet, last + max(window, quiet)) for _, first, last in clusters]
    incidents, loose = await near.surroundings(connection, spans, reached)
    around = {key: Neighbourhood(incidents.get(key, [])) for key in fresh}
    for key, complaint in loose:
        around[key].add(complaint)
    if beyond := await _chained(connection, book, fresh, around, clusters):
        for key, complaint in await near.loose_complaints(connection, beyond):
            around[key].add(complaint)
    counted = [
        (key, low - window, high + window)
        for key, group in fresh.items()
        for low, high in _clusters(_in_question(book, list(group.values()), around[key]), window)
    ]
    for key, complaint, incident_id in await near.complaints_near(connection, counted) if counted else ():
        around[key].add(complaint, incident_id)
    members: set[UUID] = set()
    for key, neighbourhood in around.items():
        members |= detection.may_join(book, fresh[key].values(), neighbourhood)
    return around, members


async def _chained(
    connection: Connection,
    book: Rulebook,
    fresh: Mapping[str, Mapping[UUID, Complaint]],
    around: Mapping[str, Neighbourhood],
    clusters: list[Span],
) -> list[Span]:
    """Where loose complaints lie beyond the reach of these clusters, connected with one inside it. Asked only where an
    incident is near or may begin. After the newest complaint there is none, so it is the late ones that ask."""
    window, quiet = detection.window(book), detection.quiet(book)
    reach = max(window, quiet)
    starts: list[tuple[str, datetime]] = []
    highs: list[datetime] = []
    for key, first, last in clusters:
        high = last + reach
        loose = [each for each in around[key].loose.values() if first - window < each.at <= high]
        furthest = max((each.at for each in loose), default=last)
        if furthest <= last:
            continue
        inside = [each for each in fresh[key].values() if first - window < each.at <= high]
        if _beside(around[key], first - window - quiet, high) or batch_members(book.pack, [*loose, *inside]):
            starts.append((key, furthest))
            highs.append(high)
    ends = await near.loose_chains(connection, starts, quiet) if starts else []
    return [(key, high, end + STEP) for (key, _), high, end in zip(starts, highs, ends, strict=True) if end > high]


def _beside(around: Neighbourhood, low: datetime, high: datetime) -> bool:
    return any(each.last_at >= low and each.first_at <= high for each in around.incidents)


def _in_question(book: Rulebook, fresh: list[Complaint], around: Neighbourhood) -> list[datetime]:
    """The moments around which complaints must be counted: fresh ones that no incident covers, and loose ones near a
    fresh one. Around a loose one there are few, or it would be a member."""
    times = sorted(each.at for each in fresh)
    window = detection.window(book)
    questions = [each for each in times if detection.covering(book, around.incidents, each) is None]
    for loose in around.loose.values():
        index = bisect_right(times, loose.at - window)
        if index < len(times) and times[index] < loose.at + window:
            questions.append(loose.at)
    return questions


def _clusters(times: list[datetime], gap: timedelta) -> list[tuple[datetime, datetime]]:
    """Times drawn together to (first, last) where no more than `gap` lies between neighbours."""
    clusters: list[tuple[datetime, datetime]] = []
    for at in sorted(times):
        if clusters and at - clusters[-1][1] <= gap and at - clusters[-1][0] <= WIDEST:
            clusters[-1] = (clusters[-1][0], at)
        else:
            clusters.append((at, at))
    return clusters
