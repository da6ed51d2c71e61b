"""What a scene of the demo stands on: acting for its people, waiting for events, and keeping them as its proof."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from deploy.local.demo_account import Account, Narrator, Row
from deploy.local.demo_town import OWN_TOPICS, PATIENCE_SECONDS, Branch, Case, Conduct, NotSeen, Seen, Town, Where
from shared.contracts.topics import branch_topic


@dataclass
class Stage:
    """Where one scene is played. What it sees becomes its proof."""

    town: Town
    account: Account
    title: str
    cases: list[Case] = field(default_factory=list)
    proof: list[str] = field(default_factory=list)

    @property
    def narrator(self) -> Narrator:
        return self.account.narrator

    async def complaint(self, conduct: Conduct | None = None, *, quiet: bool = False, **changes: Any) -> Case:
        """A new customer complains; what is not given is an ordinary fault in Jinan."""
        customer = {"tier": "ordinary", "brand": "easyown", "home_city": "jinan"} | changes.pop("customer", {})
        customer.setdefault("phone", await self.town.fresh_phone())
        body: dict[str, Any] = {
            "channel": "service_hall",
            "kind": "complaint",
            "category": "network.coverage.indoor",
            "content": "家里信号差,打电话经常断线,希望尽快处理。",
            "place": {"city": "jinan", "district": "历下区", "address": "泉城路小区"},
            "elements": {"location": "泉城路小区", "since": "三天前"},
        }
        case = await self.town.register(body | changes | {"customer": customer}, conduct, quiet=quiet)
        self.cases.append(case)
        return case

    async def see(
        self,
        case: Case,
        kind: str,
        *rules: str,
        where: Where = lambda seen: True,
        nth: int = 1,
        hours: float = 0,
        branch: str | None = None,
    ) -> Seen:
        """Wait for an event of this ticket that names these rules, on our topics or on that branch's.

        Raises: `NotSeen` when it does not come within a patience to which `hours` of business time are added.
        """
        topics = (branch_topic(branch),) if branch else OWN_TOPICS
        wanted = set(rules)

        def fits(seen: Seen) -> bool:
            return (
                (seen.subject, seen.type) == (case.ticket_id, kind)
                and seen.topic in topics
                and wanted <= set(seen.rules)
                and where(seen)
            )

        seconds = PATIENCE_SECONDS + self.town.real_seconds(hours)
        seen = await self.town.ledger.wait(fits, seconds, nth)
        if seen is None:
            place = f" on {topics[0]}" if branch else ""
            again = f" no. {nth}" if nth > 1 else ""
            named = f" by {', '.join(rules)}" if rules else ""
            raise NotSeen(f"{kind}{again}{named}{place}, {case.ticket_no}, within {seconds:.0f} s")
        self.prove(" ".join((kind, *rules)) + (f" @{branch}" if branch else ""))
        return seen

    def prove(self, text: str) -> None:
        if text not in self.proof:
            self.proof.append(text)

    async def status(self, case: Case, wanted: str) -> None:
        """Wait until intake, which the front line asks, says so."""

        async def same() -> bool:
            ticket = await self.town.office.get("front_line", "intake", f"/v1/tickets/{case.ticket_no}")
            return bool(ticket["status"] == wanted)

        await self.town.poll(f"{case.ticket_no} is {wanted} at intake", same)

    def say(self, case: Case | None, text: str) -> None:
        self.account.note(self.town.now(), case, text)

    async def review(self, case: Case, verb: str, body: dict[str, Any]) -> None:
        """A reviewer decides about a ticket that he or she claimed before."""
        await self.town.office.ask("reviewer", "review", f"/v1/reviews/{case.ticket_no}/{verb}", body)

    async def claim(self, case: Case) -> None:
        await self.town.office.ask("reviewer", "review", f"/v1/reviews/{case.ticket_no}/claim")
        self.say(case, "a reviewer claims it 认领")

    async def call_back(self, case: Case, outcome: str) -> None:
        """Callback staff find it in their queue, call, and write down what they heard."""
        queue = await self.town.office.get("callback", "dispatch", "/v1/callbacks")
        if not queue["waiting"]:
            raise NotSeen(f"{case.ticket_no} among those that wait for a callback")
        await self.town.office.ask(
            "callback", "dispatch", f"/v1/orders/{case.ticket_no}/callback", {"outcome": outcome}
        )

    def row(self, outcome: str, *branches: str) -> Row:
        """What the table at the end says of this scene."""
        first, last = self.cases[0], self.cases[-1]
        numbers = [first.ticket_no]
        if len(self.cases) > 1:
            numbers += [("… " if len(self.cases) > 2 else "") + last.ticket_no]
        what = f"{self.narrator.kind(first.body['kind'])}, {self.narrator.category(first.body['category'])}"
        shown = " → ".join(self.narrator.branch(each) for each in branches) or "none"
        return Row(self.title, "\n".join(numbers), what, shown, outcome, ", ".join(self.proof))


Play: TypeAlias = Callable[[Stage], Awaitable[Row]]


@dataclass(frozen=True, slots=True)
class Scene:
    """`hours` scenes wait for hours of business time and need a scaled clock."""

    title: str
    play: Play
    hours: bool = False


# ---- what branches do ------------------------------------------------------------------------------------------------


def settles(satisfaction: str = "satisfied", *, network: str | None = None, on: Where | None = None) -> Conduct:
    """Sign for it and reply: at once, or after it was told something (`on`)."""

    async def act(branch: Branch, seen: Seen) -> None:
        if seen.type == "order.dispatched":
            await branch.command("order.accept", seen.subject)
        if on(seen) if on is not None else seen.type == "order.dispatched":
            await branch.settle(seen.subject, satisfaction, network)

    return act


def gives_back(reason_code: str, note: str) -> Conduct:
    async def act(branch: Branch, seen: Seen) -> None:
        if seen.type == "order.dispatched":
            await branch.command("order.return", seen.subject, {"reason_code": reason_code, "note": note})

    return act


def by_round(*rounds: Conduct) -> Conduct:
    """Another conduct each time the order goes out."""

    async def act(branch: Branch, seen: Seen) -> None:
        if seen.type == "order.dispatched":
            await rounds[min(seen.data["round"], len(rounds)) - 1](branch, seen)

    return act


def escalated(kind: str) -> Where:
    return lambda seen: seen.type == "order.escalated" and seen.data["kind"] == kind
