"""The live keys of one file, in memory. Every service has one; the file may change under it at any time.

The file is looked at again once a second, so that a new, revoked or deleted key counts without a restart. A file that
is missing, damaged or half-written changes nothing: the last good keys count on, and readiness warns.
"""

import hashlib
import hmac
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from shared.http.keys import KeyRecord, KeyState, Role, parse_records
from shared.http.principal import NotAuthenticated, Reason

log = logging.getLogger(__name__)

RECHECK_SECONDS = 1.0
# What the secret of an unknown key is compared with, so that an unknown key takes as long as a wrong one.
NO_HASH = hashlib.sha256().hexdigest()

_REASONS = {KeyState.revoked: Reason.revoked, KeyState.expired: Reason.expired}


class KeyStore:
    """Raises `OSError` or `ValueError` when the file cannot be read at the start: without keys nobody gets in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_id: dict[str, KeyRecord] = {}
        self._fault: str | None = None
        self._checked = time.monotonic()
        self._stamp = self._look()
        self._read()

    def find(self, key: str) -> KeyRecord:
        """The record of a presented key. Raises `NotAuthenticated` when it is unknown, altered, revoked or expired."""
        self._refresh()
        record = self._by_id.get(key.removeprefix("gd_").partition("_")[0])
        digest = hashlib.sha256(key.encode()).hexdigest()
        same = hmac.compare_digest(digest, record.sha256 if record is not None else NO_HASH)
        if record is None:
            raise NotAuthenticated(Reason.unknown_key)
        if not same:
            raise NotAuthenticated(Reason.wrong_secret)
        if (state := record.state(datetime.now(UTC))) is not KeyState.live:
            raise NotAuthenticated(_REASONS[state])
        if record.role is Role.branch and not record.scope:
            raise NotAuthenticated(Reason.grant)
        return record

    def records(self) -> list[KeyRecord]:
        self._refresh()
        return list(self._by_id.values())

    def warnings(self) -> list[str]:
        """For readiness: why the keys in memory may not be those of the file."""
        self._refresh()
        return [self._fault] if self._fault is not None else []

    def _refresh(self) -> None:
        if time.monotonic() - self._checked <= RECHECK_SECONDS:
            return
        self._checked = time.monotonic()
        try:
            stamp = self._look()
            if stamp == self._stamp and self._fault is None:
                return
            self._read()
            self._stamp = stamp
        except (OSError, ValueError) as error:
            # The kind of the fault only: a parser's message may quote the file.
            fault = f"the key file cannot be read ({type(error).__name__}); the keys read before count on"
            if fault != self._fault:
                log.warning("the key file cannot be read", extra={"error": type(error).__name__})
            self._fault = fault
        else:
            if self._fault is not None:
                log.warning("the key file can be read again")
            self._fault = None

    def _look(self) -> tuple[int, ...]:
        """What tells one state of the file from another; the time alone does not."""
        status = self._path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _read(self) -> None:
        self._by_id = {record.key_id: record for record in parse_records(self._path.read_bytes())}
