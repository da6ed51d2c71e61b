"""The policy engine: an organisation's rules are data (a pack), and these pure functions answer by them.

No I/O but the loader's, no clock reads. Every answer that decides something names the rules it rests on.
"""

from shared.policy.assessment import assess
from shared.policy.checking import check
from shared.policy.cities import resolve_city, resolve_place
from shared.policy.clock_model import ClockSpec
from shared.policy.clocks import clock_changes, clock_due, clock_start, limits, on_time, resolution_rule, rung
from shared.policy.detection import (
    Complaint,
    batch_members,
    counts_for_batch,
    is_appeal,
    is_repeat,
    is_vip,
    problem_of,
)
from shared.policy.endings import after_callback, callback_needed, closing
from shared.policy.facts import facts_of
from shared.policy.model import Pack
from shared.policy.reading import PackError, load_pack, load_pack_file
from shared.policy.results import (
    CallbackDecision,
    CallbackOutcome,
    ClockChanges,
    Closing,
    Due,
    Route,
    Rung,
    Unknown,
    Verdict,
)
from shared.policy.routing import route
from shared.policy.rules import ReturnReason
from shared.policy.vocabulary import basis_of, class_mark, known, return_reason

__all__ = [
    "CallbackDecision",
    "CallbackOutcome",
    "ClockChanges",
    "ClockSpec",
    "Closing",
    "Complaint",
    "Due",
    "Pack",
    "PackError",
    "ReturnReason",
    "Route",
    "Rung",
    "Unknown",
    "Verdict",
    "after_callback",
    "assess",
    "basis_of",
    "batch_members",
    "callback_needed",
    "check",
    "class_mark",
    "clock_changes",
    "clock_due",
    "clock_start",
    "closing",
    "counts_for_batch",
    "facts_of",
    "is_appeal",
    "is_repeat",
    "is_vip",
    "known",
    "limits",
    "load_pack",
    "load_pack_file",
    "on_time",
    "problem_of",
    "resolution_rule",
    "resolve_city",
    "resolve_place",
    "return_reason",
    "route",
    "rung",
]
