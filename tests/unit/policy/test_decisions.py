"""What the functions decide with the real pack, for any ticket and for chosen ones."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.ticket import TicketSnapshot
from shared.policy import after_callback, assess, callback_needed, check, class_mark, closing, route
from tests.unit.policy.tickets import NOW, pack, ticket

tickets = st.builds(
    lambda channel, kind, category, home, place, tier, brand, flags, elements, prefix: ticket(
        channel=channel,
        kind=kind,
        category=category,
        customer={"home_city": home, "tier": tier, "brand": brand},
        place=None if place is None else {"city": place},
        flags=tuple(flags),
        elements=elements,
        contact={"number_prefix": prefix},
    ),
    st.sampled_from(list(pack().channel_by_id)),
    st.sampled_from(list(pack().kind_by_id)),
    st.sampled_from(list(pack().category_by_code)),
    st.sampled_from(["jinan", "qingdao", "other_province"]),
    st.sampled_from([None, "dongying", "jinan"]),
    st.sampled_from(list(pack().tier_by_id)),
    st.sampled_from([None, *pack().brand_by_id]),
    st.sets(st.sampled_from(list(pack().flag_by_id)), max_size=3),
    st.dictionaries(
        st.sampled_from(["location", "since", "card_city", "reversal_operator_city"]),
        st.sampled_from(["zibo", "x", None]),
    ),
    st.sampled_from(["", "147", "138"]),
)


@given(tickets)
def test_centre_2_is_never_the_complaint_city_of_a_business_matter(given_ticket: TicketSnapshot) -> None:
    """DET-34, with the points base as its one exception (8.1 no. 6)."""
    found = route(pack(), assess(pack(), given_ticket))
    category = pack().category(given_ticket.category)
    assert found.branch in pack().branch_by_id
    assert category is not None
    if given_ticket.channel == "points_base":
        assert (found.branch, found.complaint_city) == ("csc2", "csc2")
    elif category.business_matter:
        assert found.complaint_city != "csc2"


@given(tickets)
def test_every_ticket_gets_a_verdict_with_its_basis(given_ticket: TicketSnapshot) -> None:
    assessed = assess(pack(), given_ticket)
    verdict = check(pack(), assessed, round=1)
    assert (verdict.outcome == "return") <= (verdict.reason_code is not None)
    assert bool(verdict.findings) == (verdict.outcome != "approve")
    if verdict.reason_code:
        assert "review" in pack().reason_by_code[verdict.reason_code].by
    assert set(verdict.missing) <= set(pack().element_by_code) | {"call_serial"}
    assert "{" not in "".join(finding.message_zh + finding.message_en for finding in verdict.findings)


@given(tickets)
def test_assessing_twice_changes_nothing(given_ticket: TicketSnapshot) -> None:
    once = assess(pack(), given_ticket)
    assert assess(pack(), once) == once


@given(tickets, st.sampled_from(["satisfied", "unsatisfied", "not_called", "not_reached"]))
def test_nothing_is_reported_but_the_truth(given_ticket: TicketSnapshot, outcome: Any) -> None:
    """Domain 8.2: the second, reported outcome is off."""
    assert not pack().closing.reporting.enabled
    found = closing(pack(), assess(pack(), given_ticket), outcome=outcome, accepted_at=NOW, closed_at=NOW)
    assert found.reported_outcome is None


def test_reporting_can_be_turned_on_and_cites_its_rule() -> None:
    data = pack().model_copy(
        update={
            "closing": pack().closing.model_copy(
                update={"reporting": pack().closing.reporting.model_copy(update={"enabled": True})}
            )
        }
    )
    found = closing(data, ticket(kind="inquiry"), outcome="unsatisfied", accepted_at=NOW, closed_at=NOW)
    assert found.reported_outcome == "not_reached"
    assert "SDM-S8" in found.basis.rules


def test_marks_that_are_there_stay_and_are_not_doubled() -> None:
    raised = class_mark(pack(), "raised")
    once = assess(pack(), ticket(customer={"tier": "vip"}), [raised])
    twice = assess(pack(), once, [raised, class_mark(pack(), "batch")])
    assert [mark.code for mark in twice.classes] == ["raised", "vip", "batch"]
    assert once.urgency.code == "urgent"


@pytest.mark.parametrize(
    ("given_ticket", "classes", "urgency"),
    [
        ({}, [], "ordinary"),
        ({"channel": "government"}, ["level_skipping"], "urgent"),
        ({"channel": "group_hotline"}, ["level_skipping", "via_group_hotline"], "urgent"),
        ({"channel": "cross_province"}, ["received_from_other_province"], "urgent"),
        ({"customer": {"tier": "gold"}}, ["important", "vip"], "urgent"),
        ({"customer": {"tier": "vip"}}, ["vip"], "ordinary"),
        ({"customer": {"tier": "club"}, "channel": "media"}, ["level_skipping", "vip"], "most_urgent"),
        ({"customer": {"group_rating": "A"}}, ["important"], "urgent"),
        ({"customer": {"group_rating": "B"}}, [], "ordinary"),
        ({"flags": ("sensitive",)}, ["sensitive"], "urgent"),
        ({"flags": ("major",)}, ["major"], "urgent"),
        ({"category": "charges.international"}, ["international"], "ordinary"),
        ({"category": "network.coverage.indoor", "place": {"city": "qingdao"}}, ["cross_region"], "urgent"),
        ({"category": "network.coverage.indoor", "place": {"city": "jinan"}}, [], "ordinary"),
    ],
)
def test_classes_and_urgency(given_ticket: dict[str, Any], classes: list[str], urgency: str) -> None:
    found = assess(pack(), ticket(**given_ticket))
    assert [mark.code for mark in found.classes] == classes
    assert found.urgency.code == urgency


@pytest.mark.parametrize(
    ("given_ticket", "satisfaction", "needed"),
    [
        ({}, "satisfied", False),
        ({}, "unsatisfied", True),
        ({}, "not_called", True),
        ({"customer": {"tier": "vip"}}, "satisfied", True),
        ({"category": "service.hall"}, "satisfied", True),
    ],
)
def test_who_is_called_back(given_ticket: dict[str, Any], satisfaction: str, needed: bool) -> None:
    found = callback_needed(pack(), assess(pack(), ticket(**given_ticket)), {"satisfaction": satisfaction})
    assert found.needed is needed


def test_a_corrected_serial_is_compared_with_the_acceptance_too() -> None:
    """A ticket that comes back days later still has the serial of its call."""
    later = ticket(channel="hotline_10086", call_serial="2026112209580012", submitted_at=NOW.replace(day=25))
    assert check(pack(), later, round=1).reason_code == "RT_SERIAL_MISMATCH"
    assert check(pack(), later, round=2).outcome == "approve"


CARD_AT_DONGYING: dict[str, Any] = {"category": "network.data_card.unusable", "place": {"city": "dongying"}}

VOICE: dict[str, Any] = {"category": "network.voice.dropped"}


@pytest.mark.parametrize(
    ("given_ticket", "situation", "redispatch", "rule"),
    [
        (CARD_AT_DONGYING, {"network": "normal", "previous_branch": "dongying"}, True, "RTE-10"),
        (CARD_AT_DONGYING, {"network": "normal", "previous_branch": "jinan"}, False, "RTE-10-HOME"),
        (CARD_AT_DONGYING, {"network": "faulty", "previous_branch": "dongying"}, False, "RTE-09"),
        (CARD_AT_DONGYING, {"returned_by": "dongying", "return_reason": "RT_NOT_OURS"}, True, "RTE-18"),
        (CARD_AT_DONGYING, {"returned_by": "jinan", "return_reason": "RT_NOT_OURS"}, False, "RTE-08"),
        (CARD_AT_DONGYING, {"returned_by": "dongying", "return_reason": "RT_DATA_PROBLEM"}, False, "RTE-08"),
        (VOICE, {"network": "normal", "previous_branch": "jinan"}, False, "RTE-10-HOME"),
        ({}, {"network": "normal", "previous_branch": "jinan"}, False, "RTE-19"),
        ({}, {"returned_by": "jinan", "return_reason": "RT_NOT_OURS"}, False, "RTE-19"),
    ],
)
def test_a_ticket_goes_on_by_itself_only_where_a_rule_says_so(
    given_ticket: dict[str, Any], situation: dict[str, str], redispatch: bool, rule: str
) -> None:
    """Two branches must not pass a ticket to and fro between them without a person."""
    found = route(pack(), ticket(**given_ticket), **situation)
    assert found.redispatch is redispatch
    assert found.basis.rules[0] == rule
    if redispatch and "network" in situation:
        assert found.branch != situation["previous_branch"]


@pytest.mark.parametrize(
    ("category", "content", "missing"),
    [
        ("network.coverage.indoor", "阳光小区3号楼昨天开始没有信号。", ()),
        ("network.coverage.indoor", "泉城路180号地下室无信号,已有三天。", ()),
        ("network.coverage.indoor", "客户在小区内无信号,一个多月了。", ("location",)),
        ("network.coverage.indoor", "山东大学宿舍无信号,要求3天内答复。", ("since",)),
        ("network.coverage.indoor", "近期经常无信号,客户拒绝提供详细地址。", ()),
        ("charges.data", "9月被扣35.5元,不认可。", ()),
        ("charges.data", "每月多扣几十元。", ()),
        ("charges.data", "客户对流量费用不认可。", ("amount", "period")),
        ("charges.data", "客户忘记服务密码,对流量费用不认可。", ()),
        ("security.harassing_call.other", "138****0000一直来电。", ()),
        ("security.harassing_call.other", "客户接到骚扰电话,未显示号码。", ()),
        ("security.harassing_call.other", "客户接到骚扰电话。", ("caller_number",)),
        ("dream_network.unordered", "端口1066扣费,未定制。", ()),
    ],
)
def test_what_the_text_says_is_not_asked_for_again(category: str, content: str, missing: tuple[str, ...]) -> None:
    """SDM-R0c, DET-24."""
    verdict = check(pack(), ticket(category=category, content=content), round=1)
    assert verdict.missing == missing
    assert verdict.outcome == ("return" if missing else "approve")


@pytest.mark.parametrize(
    ("content", "proposal"),
    [
        ("云南号码响一声就挂。", "security.harassing_call.inter_province_own.threat"),
        ("本地号码响一声就挂。", "security.harassing_call.other"),
        ("客户在外地,要求异地补办手机卡。", "support.sim_replacement.cross_region"),
        ("客户用充值卡充错了号码。", "support.recharge.wrong_number"),
        ("客户的话费被回退,本人不知情。", "charges.balance_reversal"),
    ],
)
def test_a_text_that_points_elsewhere_is_held_with_a_proposal(content: str, proposal: str) -> None:
    """SDM-R0b, DET-26."""
    verdict = check(pack(), ticket(category="own_services.ring_back", content=content), round=1)
    assert (verdict.outcome, [finding.proposal for finding in verdict.findings]) == ("hold", [proposal])


@pytest.mark.parametrize(
    ("outcome", "attempts", "reopened", "action"),
    [
        ("satisfied", 1, 0, "close"),
        ("unsatisfied", 1, 0, "reopen"),
        ("unsatisfied", 1, 1, "person"),
        ("not_reached", 2, 0, "retry"),
        ("not_called", 1, 0, "retry"),
        ("not_reached", 3, 0, "close"),
    ],
)
def test_what_follows_a_callback(outcome: Any, attempts: int, reopened: int, action: str) -> None:
    found = after_callback(pack(), outcome=outcome, attempts=attempts, reopened_count=reopened, ticket=ticket())
    assert found.action == action


def test_an_unsatisfied_customer_of_the_group_hotline_is_closed_before_the_softer_rules() -> None:
    """S4, then S3, then S8 (8.1 no. 10)."""
    everything = ticket(
        channel="group_hotline", kind="inquiry", category="service.agent_attitude", flags=("long_term_sensitive",)
    )
    found = after_callback(
        pack(), outcome="unsatisfied", attempts=1, reopened_count=0, ticket=assess(pack(), everything)
    )
    assert found.basis.rules[0] == "SDM-S4"


def test_a_duplicate_goes_before_everything_but_a_direct_answer() -> None:
    both = ticket(channel="cross_province", category="network.coverage.indoor", open_duplicate="T1", content="无信号")
    assert check(pack(), both, round=1).reason_code == "RT_DUPLICATE"
    assert [finding.rule for finding in check(pack(), both, round=1).findings] == ["SDM-S1", "SDM-R8"]


def test_a_call_just_before_and_long_before_submission() -> None:
    """The tolerance is the pack's own figure (8.5): four hours back, ten minutes of clock skew ahead."""
    outcomes = [
        check(pack(), ticket(channel="hotline_10086", call_serial=f"20261122{clock}01"), round=1).outcome
        for clock in ("060000", "055959", "101000", "101001")
    ]
    assert outcomes == ["approve", "hold", "approve", "hold"]
