"""What the demo shows: the live account, one line an event, and the table at the end. English, with the Chinese term.

Widths are counted in terminal cells by `rich`, so that Chinese characters do not break the columns. Without a terminal
the same lines come plainly, without a progress bar.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from deploy.local.demo_town import OWN_TOPICS, Case, Seen
from shared.policy import Pack

WIDE = 120
PLAIN_WIDTH = 220
TIME_CELLS = 16
NUMBER_CELLS = 17
WRITE_SECONDS = 0.1
STYLES = {
    "clock.breached": "bold red",
    "clock.warned": "yellow",
    "escalation.raised": "red",
    "incident.opened": "bold red",
    "review.returned": "yellow",
    "review.held": "yellow",
    "order.returned": "yellow",
    "ticket.closed": "green",
    "ticket.answered": "green",
    "ticket.reopened": "magenta",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table at the end. `missing` says what was not seen; empty means that all was."""

    scene: str
    tickets: str = ""
    what: str = ""
    branch: str = ""
    outcome: str = ""
    proof: str = ""
    missing: str = ""


class Account:
    """Prints what happens to the tickets of the demo, in the order in which it happened.

    Topics are read side by side, so a line is held back for a moment; a later one may have happened before it. An event
    of a ticket can also come before its number is known.
    """

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.narrator = Narrator(pack)
        console = Console()
        self._plain = not console.is_terminal
        self.console = Console(width=PLAIN_WIDTH if self._plain else None, highlight=False)
        self._held: list[tuple[datetime, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._numbers: dict[str, str] = {}
        self._quiet: set[str] = set()
        self._early: dict[str, list[Seen]] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=self._plain,
            transient=True,
        )
        self._task: TaskID | None = None

    def playing(self, scenes: int) -> AbstractContextManager[Progress]:
        """The progress bar, for as long as the scenes are played."""
        self._task = self._progress.add_task("the day begins", total=scenes)
        return self._progress

    def scene_ended(self) -> None:
        if self._task is not None:
            self._progress.advance(self._task)

    # ---- the live account --------------------------------------------------------------------------------------------

    def scene_begins(self, when: datetime, title: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=title.partition(":")[0])
        self._hold(when, lambda: self.console.print(Text(f"── {title}", style="bold cyan")))

    def adopt(self, case: Case, quiet: bool) -> None:
        """From now on this ticket is one of ours. A quiet one is of a crowd: only what concerns the crowd is told."""
        self._numbers[case.ticket_id] = case.ticket_no
        if quiet:
            self._quiet.add(case.ticket_id)
        for seen in self._early.pop(case.ticket_id, ()):
            self.tell(seen)

    def tell(self, seen: Seen) -> None:
        """Tell one event. What a branch reads on its own topic is on the common topics too, and told once."""
        if seen.topic in OWN_TOPICS:
            self._hold(seen.time, lambda: self._event(seen))

    def note(self, when: datetime, case: Case | None, text: str) -> None:
        """What a person does and no event tells."""
        number = case.ticket_no if case else ""
        self._hold(when, lambda: self._line(when, number, text, (), "italic"))

    async def write(self, now: Callable[[], datetime], hold: timedelta) -> None:
        """Print what happened so long ago (business time), until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            self.flush(now() - hold)

    def flush(self, until: datetime | None = None) -> None:
        """Print what happened until then; without a time, everything."""
        while self._held and (until is None or self._held[0][0] <= until):
            heapq.heappop(self._held)[2]()

    def _hold(self, when: datetime, tell: Callable[[], None]) -> None:
        heapq.heappush(self._held, (when, next(self._count), tell))

    def _event(self, seen: Seen) -> None:
        number = self._numbers.get(seen.subject)
        if "members" in seen.data:
            ours = any(member["ticket_id"] in self._numbers for member in seen.data["members"])
            number = "(incident)" if ours else None
        elif number is None:
            self._early.setdefault(seen.subject, []).append(seen)
        if number is not None and seen.subject not in self._quiet:
            self._line(seen.time, number, self.narrator.sentence(seen), seen.rules, STYLES.get(seen.type, ""))

    def _line(self, when: datetime, number: str, what: str, rules: Sequence[str], style: str) -> None:
        at = f"{when.astimezone(self.pack.tz):%a %d %b %H:%M}"
        if self._plain:
            why = f"  [{' '.join(rules)}]" if rules else ""
            self.console.print(Text(f"{at}  {number:<{NUMBER_CELLS}}  {what}{why}"), soft_wrap=True)
            return
        line = Table.grid(padding=(0, 1))
        line.add_column(width=TIME_CELLS, no_wrap=True)
        line.add_column(width=NUMBER_CELLS, no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(Text(at), Text(number), Text.assemble((what, style), "  ", (" ".join(rules), "dim")))
        self.console.print(line)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def summary(self, rows: Sequence[Row]) -> None:
        """The table at the end; on a narrow terminal with fewer, fuller columns."""
        table = Table(title="What the day has shown 一天的投诉处理", show_lines=True, expand=True)
        wide = self.console.width >= WIDE
        table.add_column("Scene, and what it shows", ratio=6, overflow="fold")
        if wide:
            table.add_column("Ticket 流水号", width=NUMBER_CELLS, overflow="fold")
            table.add_column("Kind, category", ratio=4, overflow="fold")
            table.add_column("Branch", ratio=3, overflow="fold")
            table.add_column("Outcome", ratio=4, overflow="fold")
            table.add_column("Proof: events and rule ids", ratio=7, overflow="fold")
        else:
            table.add_column("Ticket 流水号, kind, branch", ratio=6, overflow="fold")
            table.add_column("Outcome, and its proof", ratio=8, overflow="fold")
        for row in rows:
            ending = Text(f"NOT SEEN: {row.missing}", style="bold red") if row.missing else Text(row.outcome)
            about = [Text(row.tickets), Text(row.what), Text(row.branch)]
            proof = Text(row.proof, style="dim")
            cells = [*about, ending, proof] if wide else [Text("\n").join(about), Text("\n").join((ending, proof))]
            table.add_row(Text(row.scene), *cells)
        self.console.print(table)


class Narrator:
    """Events in words. Labels are those of the pack."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._sentences: dict[str, Callable[[Mapping[str, Any]], str]] = {
            "ticket.registered": self._registered,
            "ticket.supplemented": lambda d: f"supplemented 补充: {', '.join(d['changed'])}",
            "ticket.withdrawn": lambda d: f"withdrawn by the customer 撤回: {d['reason']}",
            "ticket.answered": lambda d: f"answered at first contact 首次解决: {d['answer']}",
            "review.held": lambda d: f"held for a person 待人工复核: {d['findings'][0]['message_en']}",
            "review.approved": self._approved,
            "review.returned": self._review_returned,
            "review.merged": lambda d: f"merged 并单 into {d['into']['ticket_no']}",
            "review.reclassified": self._reclassified,
            "approval.requested": lambda d: "the supervisor's opinion is asked for 请主管给出意见",
            "approval.granted": lambda d: f"the supervisor agrees 主管同意: {d['opinion']}",
            "approval.refused": lambda d: f"the supervisor refuses 主管不同意: {d['opinion']}",
            "order.dispatched": self._dispatched,
            "order.accepted": lambda d: f"{self.branch(d['branch'])} signs for it 签收",
            "order.progressed": lambda d: f"{self.branch(d['branch'])} reports 进展: {d['note']}",
            "order.replied": self._replied,
            "order.returned": self._order_returned,
            "order.transferred": lambda d: f"transferred 转派 to {self.branch(d['to_branch'])}",
            "order.raised": lambda d: f"raised 升级 to {d['to']}: {d['reason']}",
            "order.urged": lambda d: f"{self.branch(d['branch'])} is urged 催单: {d['reason']}",
            "order.escalated": self._order_escalated,
            "order.recalled": lambda d: f"recalled 撤单 from {self.branch(d['branch'])}: {d['reason']}",
            "callback.recorded": lambda d: f"callback 回访 no. {d['attempt']}: {d['outcome'].replace('_', ' ')}",
            "ticket.closed": self._closed,
            "ticket.reopened": lambda d: f"reopened 重新处理: {d['reason']}",
            "clock.warned": lambda d: f"warning 预警: {self._clock(d['clock'])}",
            "clock.breached": lambda d: f"OVERDUE 超时: {self._clock(d['clock'])}",
            "escalation.raised": self._escalated,
            "incident.opened": self._incident,
            "incident.joined": lambda d: f"joins the incident of {self.category(d['problem']['parts']['category'])}",
            "incident.closed": lambda d: f"the incident is quiet and closes, {d['member_count']} members",
        }

    def sentence(self, seen: Seen) -> str:
        say = self._sentences.get(seen.type)
        return say(seen.data) if say is not None else seen.type

    def branch(self, name: str | None) -> str:
        known = self._pack.branch_by_id.get(name or "")
        return f"{known.name.en} {known.name.zh}" if known else name or "nobody"

    def category(self, code: str | None) -> str:
        known = self._pack.category_by_code.get(code or "")
        return f"{known.label.en} {known.label.zh}" if known else code or ""

    def kind(self, code: str) -> str:
        label = self._pack.kind_by_id[code].label
        return f"{label.en} {label.zh}"

    def _classes(self, marks: Sequence[Mapping[str, str]]) -> str:
        return ", ".join(
            f"{self._pack.class_by_code[each['code']].label.en} {self._pack.class_by_code[each['code']].label.zh}"
            for each in marks
        )

    def _registered(self, data: Mapping[str, Any]) -> str:
        ticket = data["ticket"]
        urgency = self._pack.level_by_code[ticket["urgency"]["code"]].label
        classes = f", class {self._classes(ticket['classes'])}" if ticket["classes"] else ""
        kind, category = self.kind(ticket["kind"]), self.category(ticket["category"])
        return f"{kind} registered: {category}, {urgency.en} {urgency.zh}{classes}"

    def _approved(self, data: Mapping[str, Any]) -> str:
        who = "by the rules" if data["automatic"] else "by a reviewer"
        chosen = f", who chooses {self.branch(data['branch'])}" if data.get("branch") else ""
        return f"approved 审核通过 {who}{chosen}"

    def _reason(self, code: str) -> str:
        label = self._pack.reason_by_code[code].label
        return f"{label.en} {label.zh}"

    def _review_returned(self, data: Mapping[str, Any]) -> str:
        missing = f": {', '.join(data['missing'])}" if data.get("missing") else ""
        who = "by the rules" if data["automatic"] else "by a reviewer"
        return f"returned to the agent 退单 {who}, {self._reason(data['reason_code'])}{missing}"

    def _reclassified(self, data: Mapping[str, Any]) -> str:
        ticket, before = data["ticket"], data["category_before"]
        if before == ticket["category"]:
            return f"reclassified 更改类别: now {self._classes(ticket['classes'])}"
        return f"reclassified 更改类型: {self.category(before)} → {self.category(ticket['category'])}"

    def _dispatched(self, data: Mapping[str, Any]) -> str:
        again = f", round {data['round']}" if data["round"] > 1 else ""
        order = f". {data['instruction']['en']}" if data.get("instruction") else ""
        return f"dispatched 派单 to {self.branch(data['branch'])}{again}{order}"

    def _replied(self, data: Mapping[str, Any]) -> str:
        reply = data["reply"]
        network = f", network {reply['network']}" if reply.get("network") else ""
        return (
            f"{self.branch(data['branch'])} replies 回复: customer {reply['satisfaction'].replace('_', ' ')}{network}"
        )

    def _order_returned(self, data: Mapping[str, Any]) -> str:
        then = "the rules send it out again" if data["redispatched"] else "a person decides"
        return f"{self.branch(data['branch'])} returns it 退回: {self._reason(data['reason_code'])}; {then}"

    def _order_escalated(self, data: Mapping[str, Any]) -> str:
        urgency = self._pack.level_by_code[data["urgency"]["code"]].label
        return (
            f"{self.branch(data['branch'])} is told: {data['kind']}, rung {data['rung']}, now {urgency.en} {urgency.zh}"
        )

    def _closed(self, data: Mapping[str, Any]) -> str:
        notices = "".join(f", {self._notice(code)}" for code in data.get("notices", ()))
        return f"closed 归档: customer {data['outcome'].replace('_', ' ')}{notices}"

    def _notice(self, code: str) -> str:
        return next((f"{each.label.en} {each.label.zh}" for each in self._pack.notices if each.id == code), code)

    def _clock(self, clock: Mapping[str, Any]) -> str:
        label = self._pack.clock_by_kind[clock["kind"]].label
        due = datetime.fromisoformat(clock["due_at"]).astimezone(self._pack.tz)
        return f"{label.en} {label.zh}, due {due:%a %H:%M} ({clock['rule']})"

    def _escalated(self, data: Mapping[str, Any]) -> str:
        level = f" to {data['level']['en']} {data['level']['zh']}" if data.get("level") else ""
        reason = data["reason"].rpartition(" / ")[2]
        return f"escalation 升级 ({data['kind']}), rung {data['rung']}{level}: {reason}"

    def _incident(self, data: Mapping[str, Any]) -> str:
        parts = data["problem"]["parts"]
        where = self.branch(parts.get("city"))
        return f"INCIDENT 批量投诉: {len(data['members'])} complaints of {self.category(parts['category'])} in {where}"
