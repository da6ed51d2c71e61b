"""The scenes that need minutes of business time: each is one customer's story, proved by what was read back."""

from deploy.local.demo_account import Row
from deploy.local.demo_stage import Stage, by_round, escalated, gives_back, settles
from deploy.local.demo_town import Branch, NotSeen, Seen


async def first_contact(stage: Stage) -> Row:
    case = await stage.complaint(
        kind="inquiry",
        category="inquiry.general",
        content="请问本月套餐还剩多少流量?",
        elements={},
        flags=["answerable_at_once"],
    )
    await stage.see(case, "review.returned", "SDM-R5", where=lambda seen: seen.data["automatic"])
    await stage.status(case, "returned")
    path = f"/v1/tickets/{case.ticket_no}/answer"
    await stage.town.office.ask("front_line", "intake", path, {"answer": "已告知客户余量和查询方法。"})
    await stage.see(case, "ticket.answered", "RTE-01")
    await stage.status(case, "answered")
    return stage.row("answered by the agent, no branch disturbed")


async def deficient(stage: Stage) -> Row:
    case = await stage.complaint(
        settles(), content="信号不好", elements={}, place={"city": "jinan"}, customer={"brand": "mzone"}
    )
    returned = await stage.see(case, "review.returned", "SDM-R8", where=lambda seen: seen.data["automatic"])
    await stage.status(case, "returned")
    given = {"elements": {"location": "经十路小区", "since": "昨天"}, "place": {"city": "jinan", "address": "经十路"}}
    await stage.town.office.ask("front_line", "intake", f"/v1/tickets/{case.ticket_no}/supplement", given)
    await stage.see(case, "ticket.supplemented")
    await stage.see(case, "order.dispatched", branch="jinan")
    await stage.see(case, "ticket.closed")
    return stage.row(f"returned for {', '.join(returned.data['missing'])}; supplemented; closed", "jinan")


async def wrong_city(stage: Stage) -> Row:
    """AC-04 of the domain catalogue, with a normal network."""
    case = await stage.complaint(
        by_round(
            gives_back("RT_NOT_OURS", "两张卡均为济南号码,请转济南"), settles("not_called", network="normal"), settles()
        ),
        category="network.data_card.unusable",
        content="客户在济南购买两张上网卡,在广饶县城无法使用,位置不固定,要求退卡。",
        place={"city": "dongying", "district": "广饶县"},
        elements={},
        flags=["unusable_at_place"],
    )
    await stage.see(case, "ticket.registered", "GDM-D9")
    await stage.see(case, "order.dispatched", "RTE-08", branch="dongying")
    await stage.see(case, "order.returned", where=lambda seen: seen.data["redispatched"])
    await stage.see(case, "order.dispatched", "RTE-18", branch="dongying")
    await stage.see(case, "order.replied", "RTE-10")
    await stage.see(case, "order.dispatched", "RTE-10", branch="jinan")
    await stage.see(case, "ticket.closed", "GDM-T8-ASKED")
    return stage.row("Dongying had to verify its network; then Jinan answered; closed", "dongying", "dongying", "jinan")


async def branch_return(stage: Stage) -> Row:
    async def act(branch: Branch, seen: Seen) -> None:
        conduct = gives_back("RT_NOT_OURS", "号码属威海") if branch.name == "yantai" else settles()
        await conduct(branch, seen)

    case = await stage.complaint(
        act,
        category="service.hall",
        content="服务厅排队时间长,工作人员不耐烦。",
        customer={"home_city": "yantai"},
        place={"city": "yantai"},
        elements={},
    )
    await stage.see(case, "order.dispatched", branch="yantai")
    await stage.see(case, "order.returned", "SDM-C3")
    await stage.see(case, "review.held", "SDM-C3")
    await stage.claim(case)
    await stage.review(case, "approve", {"branch": "weihai", "note": "号码属威海,改派威海。"})
    await stage.see(case, "order.dispatched", "SDM-R0", branch="weihai")
    await stage.see(case, "order.replied")
    await stage.call_back(case, "satisfied")
    await stage.see(case, "ticket.closed")
    return stage.row("a reviewer chose Weihai; called back (GDM-R4); closed", "yantai", "weihai")


async def harassing(stage: Stage) -> Row:
    """AC-02 of the domain catalogue."""
    case = await stage.complaint(
        settles(),
        kind="inquiry",
        category="inquiry.expert_reply",
        content="昆明的A号码来电响一声就挂断,打扰客户。",
        elements={},
        place=None,
    )
    held = await stage.see(case, "review.held", "DET-26-HARASSING-PROVINCE")
    proposal = held.data["findings"][0]["proposal"]
    await stage.claim(case)
    await stage.review(case, "reclassify", {"category": proposal, "kind": "complaint"})
    await stage.see(case, "review.reclassified", "SDM-R0b")
    await stage.review(case, "approve", {})

    def corrected(seen: Seen) -> bool:
        order = seen.data["order"]
        return (order["category"], order["kind"]) == (proposal, "complaint")

    await stage.see(case, "order.dispatched", branch="jinan", where=corrected)
    await stage.see(case, "ticket.closed")
    return stage.row(f"now a complaint, {stage.narrator.category(proposal)}; closed", "jinan")


async def repeat(stage: Stage) -> Row:
    phone = await stage.town.fresh_phone()
    customer = {"phone": phone, "home_city": "taian"}
    place = {"city": "taian", "district": "泰山区", "address": "东岳大街小区"}
    category = "network.voice.dropped"
    first = await stage.complaint(settles(), customer=customer, place=place, category=category)
    await stage.see(first, "ticket.closed")
    await stage.status(first, "closed")
    again = await stage.complaint(settles(on=escalated("repeat")), customer=customer, place=place, category=category)
    await stage.see(
        again,
        "escalation.raised",
        "GDM-D7",
        where=lambda seen: seen.data["kind"] == "repeat" and seen.data["earlier"]["ticket_no"] == first.ticket_no,
    )

    def shorter(seen: Seen) -> bool:
        limits = {limit["kind"]: limit["rule"] for limit in seen.data["limits"]}
        return "repeat" in {mark["code"] for mark in seen.data["classes"]} and limits["resolution"] == "GDM-L6"

    await stage.see(again, "order.escalated", "GDM-D7", branch="taian", where=shorter)
    stage.prove("class repeat 重复投诉, limit GDM-L6 48 h")
    await stage.see(again, "ticket.closed")
    return stage.row("repeat of the closed ticket: 48 h instead of 96; closed", "taian")


async def satisfied(stage: Stage) -> Row:
    case = await stage.complaint(
        settles("not_called"),
        customer={"home_city": "qingdao"},
        place={"city": "青岛市", "district": "市南区", "address": "香港中路小区"},
    )
    await stage.see(case, "review.approved", where=lambda seen: seen.data["automatic"])
    await stage.see(case, "order.dispatched", "RTE-07-NETWORK", branch="qingdao")
    await stage.see(case, "order.accepted")
    await stage.see(case, "order.replied", "GDM-T8")
    await stage.call_back(case, "satisfied")
    await stage.see(case, "ticket.closed", "CALLBACK-SATISFIED")
    await stage.status(case, "closed")
    return stage.row("satisfied at the callback; closed", "qingdao")


async def not_reached(stage: Stage) -> Row:
    case = await stage.complaint(
        settles("not_called"),
        category="charges.dispute",
        content="本月话费多出 30 元,客户不认可。",
        elements={"amount": 30, "period": "本月"},
        place=None,
        customer={"home_city": "qingdao"},
    )
    await stage.see(case, "order.replied")
    await stage.call_back(case, "not_reached")
    await stage.see(case, "callback.recorded", where=lambda seen: seen.data["outcome"] == "not_reached")
    await stage.call_back(case, "satisfied")
    await stage.see(case, "callback.recorded", where=lambda seen: seen.data["attempt"] == 2)
    await stage.see(case, "ticket.closed", "CALLBACK-SATISFIED")
    return stage.row("not reached, then satisfied; closed", "qingdao")


async def reopened(stage: Stage) -> Row:
    case = await stage.complaint(settles("not_called"), category="network.data.slow", content="晚上手机上网很慢。")
    await stage.see(case, "order.replied")
    await stage.call_back(case, "unsatisfied")
    await stage.see(case, "ticket.reopened", "CALLBACK-REOPEN")
    await stage.see(case, "order.dispatched", branch="jinan", where=lambda seen: seen.data["round"] == 2)
    await stage.see(case, "order.replied", nth=2)
    await stage.call_back(case, "satisfied")
    await stage.see(case, "ticket.closed")
    return stage.row("unsatisfied, so it went out again; then satisfied; closed", "jinan", "jinan")


async def withdrawn(stage: Stage) -> Row:
    case = await stage.complaint(place={"city": "dezhou", "address": "德城区小区"}, customer={"home_city": "dezhou"})
    await stage.see(case, "order.dispatched", branch="dezhou")
    path = f"/v1/tickets/{case.ticket_no}/withdraw"
    await stage.town.office.ask("front_line", "intake", path, {"reason": "信号已恢复,客户撤回投诉"})
    await stage.see(case, "ticket.withdrawn")
    await stage.see(case, "order.recalled", branch="dezhou")
    await stage.status(case, "withdrawn")
    return stage.row("recalled from the branch; withdrawn", "dezhou")


async def duplicate(stage: Stage) -> Row:
    customer = {"phone": await stage.town.fresh_phone(), "home_city": "jining"}
    place = {"city": "jining", "district": "任城区", "address": "太白路小区"}
    first = await stage.complaint(customer=customer, place=place)
    await stage.see(first, "order.dispatched", branch="jining")
    second = await stage.complaint(customer=customer, place=place)
    await stage.see(second, "review.held", "DUPLICATE-OPEN")
    await stage.claim(second)
    await stage.review(second, "merge", {"into": first.ticket_no})
    await stage.see(second, "review.merged", where=lambda seen: seen.data["into"]["ticket_no"] == first.ticket_no)
    await stage.status(second, "merged")
    await stage.town.branches["jining"].settle(first.ticket_id)
    await stage.see(first, "ticket.closed")
    return stage.row("the second was merged, the first answered and closed", "jining")


async def major(stage: Stage) -> Row:
    case = await stage.complaint(
        settles(),
        category="charges.dispute",
        content="客户称多次多收话费 500 元,将联系电视台曝光。",
        elements={"amount": 500, "period": "10月"},
        flags=["media_risk"],
        place=None,
        customer={"brand": "gotone"},
    )
    await stage.see(case, "review.held", "GDM-D4-REVIEW")
    await stage.claim(case)
    await stage.review(case, "reclassify", {"add_classes": ["major"]})
    asked = await stage.see(case, "approval.requested", "GDM-M2")
    path = f"/v1/approvals/{asked.data['approval_id']}/decide"
    opinion = {"granted": True, "opinion": "先行退还争议费用,由分公司主管当日上门说明。"}
    await stage.town.office.ask("supervisor", "review", path, opinion)
    await stage.see(case, "approval.granted", "GDM-M9")
    await stage.review(case, "approve", {"note": "按主管意见处理"})

    def within_a_day(seen: Seen) -> bool:
        return "GDM-L5" in {limit["rule"] for limit in seen.data["order"]["limits"]}

    await stage.see(case, "order.dispatched", branch="jinan", where=within_a_day)
    stage.prove("limit GDM-L5 24 h")
    await stage.see(case, "ticket.closed")
    return stage.row("judged major, opinion given, 24 h; closed", "jinan")


async def points(stage: Stage) -> Row:
    case = await stage.complaint(
        settles(),
        channel="points_base",
        category="own_services.points.exchange",
        content="积分基地转来:客户兑换的礼品未收到。",
        elements={},
        place=None,
    )
    sheet = await stage.see(case, "order.dispatched", "RTE-03", branch="csc2")
    if (sheet.data["unit"], sheet.data["order"]["kind"]) != ("points_handler", "grumble"):
        raise NotSeen("the order at the points handler as a grumble (SDM-S6-KIND)")
    await stage.see(case, "ticket.closed", "SDM-S6", where=lambda seen: "quick_close" in seen.data["notices"])
    return stage.row("a grumble now; closed quickly, followed up later (SDM-S5)", "csc2")
