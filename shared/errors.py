"""The four ways in which work can fail. The domain raises them; only the edges turn them into answers."""

from enum import StrEnum


class ErrorKind(StrEnum):
    not_found = "not_found"
    conflict = "conflict"
    invalid = "invalid"
    forbidden = "forbidden"


class DomainError(Exception):
    """A request that the rules refuse. `code` is stable, `pointer` a JSON pointer (RFC 6901) to the field at fault."""

    kind: ErrorKind = ErrorKind.conflict

    def __init__(self, code: str, detail: str, *, kind: ErrorKind | None = None, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.pointer = pointer
        if kind is not None:
            self.kind = kind


class NotFound(DomainError):
    kind = ErrorKind.not_found


class Conflict(DomainError):
    kind = ErrorKind.conflict


class Invalid(DomainError):
    kind = ErrorKind.invalid


class Forbidden(DomainError):
    kind = ErrorKind.forbidden


class Transient(Exception):
    """The database or the broker is away for now; the same work may succeed later. Nothing was changed."""


class Poison(Exception):
    """A record that can never be applied as it is; it belongs in the dead letters."""


class NotYet(Exception):
    """An event came before the row that it speaks about; it is parked until the row is there."""
