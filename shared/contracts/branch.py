"""Commands that a branch may send on `gongdan.branch.replies`; the same verbs exist over HTTP.

A command's `ce_id` makes it safe to repeat; `ce_source` is `/gongdan/branch/<id>` (or `/branch/<id>`), and `branch` in
the data is the same, the one that holds the order. A `ce_sequence` is not needed and not looked at. Where dispatch asks
for it, `ce_signature` (signature.py) shows that it was this branch.
"""

from datetime import datetime
from typing import ClassVar

from pydantic import ConfigDict, Field

from shared.contracts.dispatch import Reply
from shared.contracts.ticket import Contract, MaybeText, Text
from shared.contracts.topics import BRANCH_REPLIES

TEXT_LIMIT = 4000


class Command(Contract):
    """A command is stricter than an event: a misspelt field is refused rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    TOPIC: ClassVar = BRANCH_REPLIES

    branch: str = Field(max_length=64)
    actor: str = Field(max_length=64, description="the person or system at the branch")


class AcceptOrder(Command):
    TYPE: ClassVar = "order.accept"


class ProgressOrder(Command):
    TYPE: ClassVar = "order.progress"

    note: Text = Field(min_length=1, max_length=TEXT_LIMIT)
    contacted_at: datetime | None = None
    marks: tuple[str, ...] = ()


class ReplyOrder(Command):
    TYPE: ClassVar = "order.reply"

    reply: Reply


class ReturnOrder(Command):
    TYPE: ClassVar = "order.return"

    reason_code: str = Field(max_length=64)
    note: MaybeText = Field(default=None, max_length=TEXT_LIMIT)


class TransferOrder(Command):
    TYPE: ClassVar = "order.transfer"

    to_branch: str = Field(max_length=64)
    reason: Text = Field(min_length=1, max_length=TEXT_LIMIT)
