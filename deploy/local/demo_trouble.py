"""The two scenes in which time itself acts: a branch that stays silent, and many complaints within an hour."""

import asyncio
from datetime import datetime, timedelta

from deploy.local.demo_account import Row
from deploy.local.demo_stage import Stage, escalated, settles
from deploy.local.demo_town import PATIENCE_SECONDS, Case, NotSeen, Seen
from shared.contracts.topics import SLA
from shared.policy import Pack

CROWD_FAULTS = ("network.data.no_access", "network.data.slow", "network.voice.no_connection")
CROWD_CITIES = {"weifang": "奎文区", "linyi": "兰山区", "heze": "牡丹区", "liaocheng": "东昌府区", "binzhou": "滨城区"}
CROWD_TRIES = 3
RUNGS = 3


# ---- a silent branch -------------------------------------------------------------------------------------------------


async def silent_branch(stage: Stage) -> Row:
    """Nothing is done for a VIP customer until the third rung; the acknowledgement stops the ladder, not the clock.

    That no fourth rung comes is proved by the breach of the first reply, which is due at the fourth rung's very hour.
    """
    case = await stage.complaint(
        settles("satisfied", on=lambda seen: seen.type == "order.urged"),
        customer={"tier": "vip", "brand": "gotone", "home_city": "zibo"},
        place={"city": "zibo", "district": "张店区", "address": "柳泉路小区"},
    )
    await stage.see(case, "order.dispatched", branch="zibo")

    def resolution(seen: Seen) -> bool:
        return bool(seen.data["clock"] and seen.data["clock"]["kind"] == "resolution")

    await stage.see(case, "clock.warned", "GDM-L1", where=resolution, hours=18)
    await stage.see(case, "clock.breached", "GDM-L1", where=resolution, hours=24)
    for number in range(1, RUNGS + 1):

        def rung(seen: Seen, number: int = number) -> bool:
            return bool(seen.data["rung"] == number)

        raised = await stage.see(case, "escalation.raised", "GDM-L1", where=rung, hours=36)
        await stage.see(case, "order.escalated", "GDM-L1", branch="zibo", where=rung)
        stage.prove(f"rung {number}")
    path = f"/v1/escalations/{raised.data['escalation_id']}/acknowledge"
    answer = await stage.town.office.ask("supervisor", "sla", path)
    stage.say(case, f"the supervisor takes it in hand 主管受理: escalation {answer['status']}")
    await _ladder_stops(stage, case)
    urge = {"reason": "已超时,请立即处理并答复客户"}
    await stage.town.office.ask("supervisor", "dispatch", f"/v1/orders/{case.ticket_no}/urge", urge)
    await stage.see(case, "order.urged", branch="zibo")
    await stage.see(case, "order.replied")
    await stage.call_back(case, "satisfied")
    await stage.see(case, "ticket.closed")
    clocks = await stage.town.office.get("supervisor", "sla", f"/v1/tickets/{case.ticket_no}/clocks")
    if "breached" not in {each["state"] for each in clocks["items"] if each["kind"] == "resolution"}:
        raise NotSeen("the resolution clock still breached after the closing")
    return stage.row("climbed to rung 3, acknowledged, urged; closed, the breach stays", "zibo")


async def _ladder_stops(stage: Stage, case: Case) -> None:
    await stage.see(case, "clock.breached", "GDM-L11", hours=48)

    def fourth(seen: Seen) -> bool:
        clock = seen.data.get("clock") or {}
        return (
            seen.subject == case.ticket_id
            and seen.type == "escalation.raised"
            and clock.get("kind") == "resolution"
            and seen.data["rung"] > RUNGS
        )

    if stage.town.ledger.of(fourth):
        raise NotSeen("the end of the ladder after the acknowledgement: a fourth rung came")
    stage.prove("no rung 4 after the acknowledgement")


# ---- many at once ----------------------------------------------------------------------------------------------------


class TooSlow(Exception):
    """The complaints did not fit into the window of business time; the text says how long they took."""


async def crowd(stage: Stage) -> Row:
    """Ten ordinary customers within the window open an incident; an eleventh joins it.

    A machine too busy to post them within the window (a second, at an hour a second) says so, and others begin again.
    """
    for _ in range(CROWD_TRIES):
        stage.cases.clear()
        stage.proof.clear()
        city, category = await _quiet_problem(stage)
        try:
            incident = await _complain_together(stage, city, category)
        except TooSlow as trouble:
            stage.say(None, f"this machine is busy: {trouble}; the scene begins again")
            continue
        await _crowd_is_answered(stage, city, incident)
        return stage.row("an incident of ten, the eleventh joined; all were answered and closed", city)
    raise NotSeen(f"ten complaints within the window of GDM-D6, in {CROWD_TRIES} tries: this machine is too busy")


async def _quiet_problem(stage: Stage) -> tuple[str, str]:
    """A city and a fault of which no incident is open."""
    page = await stage.town.office.get("supervisor", "sla", "/v1/incidents?status=open&limit=200")
    taken = {(each["problem"].get("city"), each["problem"].get("category")) for each in page["items"]}
    free = [(city, fault) for city in CROWD_CITIES for fault in CROWD_FAULTS if (city, fault) not in taken]
    if not free:
        raise NotSeen("a problem without an open incident: wait until they are quiet, or begin with a new data folder")
    return stage.town.chance.choice(free)


async def _complain_together(stage: Stage, city: str, category: str) -> Seen:
    rule = _pack(stage).detection.batch
    size = rule.ordinary_tickets

    async def one(phone: str) -> Case:
        return await stage.complaint(
            settles(on=escalated("batch")),
            quiet=True,
            category=category,
            content="整个小区从昨天起都无法使用,邻居也一样。",
            customer={"phone": phone, "home_city": city},
            place={"city": city, "district": CROWD_CITIES[city], "address": "新华路小区"},
            elements={"location": "新华路小区", "since": "昨天"},
        )

    phones = [await stage.town.fresh_phone() for _ in range(size + 1)]
    stage.say(None, f"{size} customers in {stage.narrator.branch(city)} complain of the same fault at once")
    await asyncio.gather(*(one(phone) for phone in phones[:size]))
    opening = asyncio.create_task(_opened(stage))
    try:
        # The eleventh must come before the problem counts as quiet, so it cannot wait for the incident for long.
        await asyncio.wait({opening}, timeout=stage.town.real_seconds(rule.quiet_minutes / 60) / 3)
        await one(phones[size])
        times = [await _accepted_at(stage, case) for case in stage.cases]
        if (took := max(times[:size]) - min(times[:size])) >= timedelta(minutes=rule.window_minutes):
            raise TooSlow(f"{size} complaints took {took.total_seconds() / 60:.0f} minutes of business time")
        if (late := times[size] - max(times[:size])) > timedelta(minutes=rule.quiet_minutes):
            raise TooSlow(f"the next one came {late.total_seconds() / 60:.0f} minutes of business time later")
        incident = await opening
    finally:
        opening.cancel()
    if incident is None:
        raise NotSeen(f"incident.opened with {size} members ({rule.id}), within {PATIENCE_SECONDS:.0f} s")
    stage.prove(f"incident.opened {rule.id}, {size} members")
    return incident


async def _opened(stage: Stage) -> Seen | None:
    """The incident with exactly so many members as make a batch, all of them ours."""
    size = _pack(stage).detection.batch.ordinary_tickets

    def ours(seen: Seen) -> bool:
        if seen.topic != SLA or seen.type != "incident.opened":
            return False
        members = {member["ticket_id"] for member in seen.data["members"]}
        return len(members) == size and members <= {case.ticket_id for case in stage.cases}

    return await stage.town.ledger.wait(ours, PATIENCE_SECONDS)


async def _crowd_is_answered(stage: Stage, city: str, incident: Seen) -> None:
    incident_id = incident.data["incident_id"]
    for case in stage.cases:
        await stage.see(case, "incident.joined", where=lambda seen: seen.data["incident_id"] == incident_id)
        await stage.see(case, "order.escalated", "GDM-D6", branch=city, where=escalated("batch"))
    stage.say(stage.cases[-1], "is the eleventh: it joined at once 并入批量")
    view = await stage.town.office.get("supervisor", "sla", f"/v1/incidents/{incident_id}")
    if view["member_count"] != len(stage.cases):
        raise NotSeen(f"{len(stage.cases)} members of the incident; it has {view['member_count']}")
    stage.prove(f"{view['member_count']} members")
    for case in stage.cases:
        await stage.see(case, "ticket.closed")
    stage.say(None, f"all {len(stage.cases)} were answered by {stage.narrator.branch(city)} and are closed")


async def _accepted_at(stage: Stage, case: Case) -> datetime:
    seen = await stage.see(case, "ticket.registered")
    return datetime.fromisoformat(seen.data["ticket"]["accepted_at"])


def _pack(stage: Stage) -> Pack:
    return stage.account.pack
