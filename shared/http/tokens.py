"""Access tokens of an OpenID Connect issuer (RFC 7519, RFC 9068), checked as RFC 8725 asks.

A second way in beside API keys, for every service. The algorithm is ours to choose, never the token's; keys come from
the issuer's key set only, never from the token (`jku`, `jwk`, `x5u` and `x5c` are not read).
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from shared.http.jwks import IssuerKeys
from shared.http.keys import Role
from shared.http.principal import NotAuthenticated, Principal, Reason
from shared.policy import load_pack
from shared.settings import ServiceSettings

SKEW_SECONDS = 60
LATEST = 2**53
REMEMBERED_TOKENS = 4096
# An access token says so, or says nothing of its type; an ID token is told apart by its audience.
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
NEEDED_CLAIMS = ["iss", "aud", "exp", "sub"]
ROLES = frozenset(Role)
SCOPED_ROLES = (Role.branch, Role.front_line)

_NAME = re.compile(r"[\x21-\x7e]{1,128}")

# The first that fits counts: the library's errors inherit from one another.
_REASONS: tuple[tuple[type[jwt.PyJWTError], Reason], ...] = (
    (jwt.ExpiredSignatureError, Reason.expired),
    (jwt.ImmatureSignatureError, Reason.not_yet_valid),
    (jwt.InvalidAudienceError, Reason.audience),
    (jwt.InvalidIssuerError, Reason.issuer),
    (jwt.InvalidAlgorithmError, Reason.algorithm),
    (jwt.InvalidSignatureError, Reason.signature),
    (jwt.MissingRequiredClaimError, Reason.claims),
    (jwt.PyJWTError, Reason.unreadable),
)


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose tokens are taken, and which of their claims say what somebody may do."""

    issuer: str
    audience: str
    algorithms: frozenset[str]
    branches: Collection[str]
    role_claim: str
    scope_claim: str
    client_claim: str


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    ends_at: float
    changes: int


class Tokens:
    """Verifies tokens and remembers the verified ones, so that a signature is checked once and not for each request."""

    def __init__(self, trust: Trust, keys: IssuerKeys) -> None:
        self._trust = trust
        self.keys = keys
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def principal(self, token: str) -> Principal:
        """Who the token speaks for. Raises `NotAuthenticated`; `Transient` when the issuer's keys are not to be had."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is None or known.changes != self.keys.changes:
            known = await self._verify(token)
            self._verified[digest] = known
            if len(self._verified) > REMEMBERED_TOKENS:
                self._verified.popitem(last=False)
        self._verified.move_to_end(digest)
        if known.ends_at <= time.time():
            raise NotAuthenticated(Reason.expired)
        return known.principal

    async def _verify(self, token: str) -> _Verified:
        try:
            algorithm, key_id = self._header(token)
            key = await self.keys.find(key_id, algorithm)
            if key is None:
                raise NotAuthenticated(Reason.unknown_key)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._trust.audience,
                issuer=self._trust.issuer,
                leeway=SKEW_SECONDS,
                options={"require": NEEDED_CLAIMS},
            )
        except jwt.PyJWTError as error:
            raise NotAuthenticated(next(reason for kind, reason in _REASONS if isinstance(error, kind))) from None
        return _Verified(self._granted(claims), _end(claims), self.keys.changes)

    def _header(self, token: str) -> tuple[str, str]:
        """The algorithm and the key id that the token names, if we take such tokens at all."""
        header = jwt.get_unverified_header(token)
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self._trust.algorithms:
            raise NotAuthenticated(Reason.algorithm)
        # No extension is understood here, so none may be critical (RFC 7515, section 4.1.11).
        if "crit" in header or not isinstance(kind, str) or kind.lower() not in TYPES:
            raise NotAuthenticated(Reason.unreadable)
        if not isinstance(key_id, str):
            raise NotAuthenticated(Reason.unknown_key)
        return algorithm, key_id

    def _granted(self, claims: Mapping[str, Any]) -> Principal:
        trust = self._trust
        subject, client = _name(claims.get("sub")), _name(claims.get(trust.client_claim))
        granted, scope = claims.get(trust.role_claim), claims.get(trust.scope_claim)
        if not isinstance(granted, str) or granted not in ROLES:
            raise NotAuthenticated(Reason.grant)
        role = Role(granted)
        if role not in SCOPED_ROLES:
            scope = None
        elif role is Role.branch and (not isinstance(scope, str) or scope not in trust.branches):
            raise NotAuthenticated(Reason.grant)
        elif scope is not None:
            scope = _name(scope)
        # Role and scope stand in the client too: what one client's users of two branches were answered stays apart.
        return Principal(f"oidc:{subject}", role, subject, scope, f"oidc:{client}:{role}:{scope or '-'}")


def _name(value: Any) -> str:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise NotAuthenticated(Reason.claims)
    return value


def _end(claims: Mapping[str, Any]) -> float:
    """When the token ends, in seconds since 1970 UTC; the skew of two clocks is allowed for."""
    end = claims["exp"]
    if not isinstance(end, int | float):
        raise NotAuthenticated(Reason.claims)
    return float(min(end, LATEST)) + SKEW_SECONDS


def tokens_of(settings: ServiceSettings) -> Tokens | None:
    """As the settings say; None where no issuer is set."""
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        return None
    trust = Trust(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        algorithms=settings.oidc_algorithm_set,
        branches=frozenset(branch.id for branch in load_pack(settings.policy_pack).branches),
        role_claim=settings.oidc_role_claim,
        scope_claim=settings.oidc_scope_claim,
        client_claim=settings.oidc_client_claim,
    )
    return Tokens(trust, IssuerKeys(trust.issuer, settings.oidc_jwks_url, trust.algorithms))
