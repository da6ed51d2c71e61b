"""Requests between the services' plumbing."""

from datetime import datetime
from typing import ClassVar

from shared.contracts.ticket import Contract
from shared.contracts.topics import CONTROL


class ReplayRequested(Contract):
    """A consumer lost its place (the log is another one): whatever was published to `topic` since then must come again.

    `since` is None when nothing of the topic was ever applied.
    """

    TYPE: ClassVar = "replay.requested"
    TOPIC: ClassVar = CONTROL

    topic: str
    since: datetime | None = None
    requested_by: str
    reason: str
