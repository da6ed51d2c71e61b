"""Every route of every service against every way to get in without a right to: 401 in the same words, or 403.

The routes come from the apps themselves, so a new one is tried without anybody thinking of it. No database is needed:
nobody gets that far, and who does finds none.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI

from shared.http.keys import Role, add_key, generate_key, revoke_key, save_records
from shared.http.principal import Reason
from shared.http.rate import RateLimits
from shared.telemetry import metrics
from tests.architecture.services import SERVICES, built
from tests.support.issuer import AUDIENCE, Issuer, base64url, segment
from tests.support.routes import guarded

HOUR = timedelta(hours=1)
FOREIGN = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NOT_AUTHENTICATED = {
    "type": "about:blank",
    "title": "Not authenticated",
    "status": 401,
    "code": "not_authenticated",
    "detail": "a valid API key or token is needed",
    "errors": [],
}

Headers = list[tuple[str, str]]


@dataclass
class House:
    """A service with a key and a token for each role, and keys that no longer count."""

    app: FastAPI
    issuer: Issuer
    keys: dict[Role, str]
    revoked: str
    expired: str
    of_another_file: str

    def token(self, role: Role) -> str:
        return self.issuer.token(
            "ed", "EdDSA", gongdan_role=role, gongdan_scope="jinan" if role is Role.branch else None
        )

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client


@pytest.fixture(params=SERVICES)
def house(request: pytest.FixtureRequest, tmp_path: Path, issuer: Issuer) -> House:
    records: list[Any] = []
    keys = {role: add_key(records, role, str(role), "jinan" if role is Role.branch else None) for role in Role}
    revoked = add_key(records, Role.supervisor, "revoked")
    revoke_key(records, records[-1].key_id)
    expired = add_key(records, Role.supervisor, "expired", expires_at=datetime.now(UTC) - HOUR)
    save_records(tmp_path / "keys.json", records)
    # Port 1 refuses at once: whoever gets in is answered 503 by every route that reads.
    service = built(request.param, tmp_path, oidc_issuer=issuer.url, oidc_audience=AUDIENCE)
    # So many refusals from one address would else become 429.
    service.app.state.rates = RateLimits(0, failures_at_once=1_000_000)
    other, _ = generate_key(Role.supervisor, "of another service")
    return House(service.app, issuer, keys, revoked, expired, other)


def on_the_wire(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers]


def bearer(text: str) -> Headers:
    return [("Authorization", f"Bearer {text}")]


def hmac_signed(issuer: Issuer) -> str:
    """Signed with the issuer's public key as if it were a shared secret."""
    secret = issuer.private["rsa"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = f"{segment({'typ': 'JWT', 'alg': 'HS256', 'kid': 'rsa'})}.{segment(issuer.claims())}"
    return f"{signed}.{base64url(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def attacks(house: House) -> Iterator[tuple[str, Headers, Reason]]:
    """(what, headers, why it is refused); all speak as a supervisor, who may do most."""
    key, issuer, now = house.keys[Role.supervisor], house.issuer, int(time.time())
    token = issuer.token()
    last = "A" if key[-1] != "A" else "B"
    yield "nothing", [], Reason.missing
    yield "empty", [("Authorization", "")], Reason.other_scheme
    yield "scheme only", [("Authorization", "Bearer")], Reason.unreadable
    yield "basic", [("Authorization", "Basic " + base64url(f"supervisor:{key}".encode()))], Reason.other_scheme
    yield "no scheme", [("Authorization", key)], Reason.other_scheme
    yield "other scheme", [("Authorization", f"Token {key}")], Reason.other_scheme
    yield "other header", [("X-API-Key", key), ("Cookie", f"Authorization=Bearer {key}")], Reason.missing
    yield "two headers", bearer(key) + bearer(key), Reason.ambiguous
    yield "two sorts", bearer(key) + bearer(token), Reason.ambiguous
    yield "two in one", bearer(f"{key}, Bearer {key}"), Reason.wrong_secret
    yield "too long", bearer(f"{key}{'A' * 9000}"), Reason.too_long
    yield "a long token", bearer(issuer.token(padding="A" * 9000)), Reason.too_long
    yield "a huge header", bearer("A" * 200_000), Reason.too_long
    yield "altered secret", bearer(key[:-1] + last), Reason.wrong_secret
    yield "short secret", bearer(key[:-1]), Reason.wrong_secret
    yield "key id only", bearer(key.rpartition("_")[0]), Reason.wrong_secret
    yield "other id", bearer("gd_k00000000_" + key.split("_", 2)[2]), Reason.unknown_key
    yield "not text", bearer("gd_k\xff\xfe_x"), Reason.unknown_key
    yield "revoked", bearer(house.revoked), Reason.revoked
    yield "expired key", bearer(house.expired), Reason.expired
    yield "another service's", bearer(house.of_another_file), Reason.unknown_key
    for name in ("none", "None", "NONE", "nOnE"):
        unsigned = f"{segment({'alg': name, 'kid': 'rsa'})}.{segment(issuer.claims())}."
        yield f"alg {name}", bearer(unsigned), Reason.algorithm
    yield "confusion", bearer(hmac_signed(issuer)), Reason.algorithm
    yield "audience", bearer(issuer.token(aud="other")), Reason.audience
    yield "issuer", bearer(issuer.token(iss=f"{issuer.url}/")), Reason.issuer
    yield "expired token", bearer(issuer.token(exp=now - 120)), Reason.expired
    yield "endless token", bearer(issuer.token(exp=None)), Reason.claims
    yield "too early", bearer(issuer.token(nbf=now + 120)), Reason.not_yet_valid
    yield "unknown kid", bearer(issuer.token(header={"kid": "nobody"})), Reason.unknown_key
    yield (
        "other signer",
        bearer(jwt.encode(issuer.claims(), FOREIGN, "RS256", headers={"kid": "rsa"})),
        Reason.signature,
    )
    yield "altered token", bearer(token[:-8] + "AAAAAAAA"), Reason.signature
    yield "critical", bearer(issuer.token(header={"crit": ["exp"], "exp": 1})), Reason.unreadable
    yield "no such role", bearer(issuer.token(gongdan_role="root")), Reason.grant
    yield "no such branch", bearer(issuer.token(gongdan_role="branch", gongdan_scope="atlantis")), Reason.grant


def counted(reason: Reason) -> float:
    value: float = metrics.authentication_failures.labels(reason)._value.get()
    return value


async def test_nobody_gets_in_who_may_not(house: House) -> None:
    tried = list(attacks(house))
    assert {reason for _, _, reason in tried} == set(Reason)
    async with house.client() as client:
        for route in guarded(house.app):
            for what, headers, reason in tried:
                before = counted(reason)
                answer = await client.request(route.method, route.url(), headers=on_the_wire(headers))
                said = orjson.loads(answer.content)
                del said["trace_id"]
                assert (answer.status_code, said) == (401, NOT_AUTHENTICATED), f"{route}: {what}"
                assert answer.headers["www-authenticate"] == "Bearer"
                assert counted(reason) == before + 1, f"{route}: {what}"


async def test_a_strangers_body_is_not_looked_at(house: House) -> None:
    json = {"Content-Type": "application/json"}
    async with house.client() as client:
        for route in guarded(house.app):
            answer = await client.request(route.method, route.url(), headers=json, content=b"{not json")
            assert answer.status_code == 401, str(route)
            for role in set(Role) - route.roles:
                headers = json | dict(bearer(house.keys[role]))
                answer = await client.request(route.method, route.url(), headers=headers, content=b"{not json")
                assert answer.status_code == 403, f"{route}: {role}"


async def test_credentials_in_the_address_are_not_read(house: House) -> None:
    key, token = house.keys[Role.supervisor], house.issuer.token()
    async with house.client() as client:
        for route in guarded(house.app):
            for secret in (key, token):
                query = {
                    name: secret for name in ("access_token", "token", "key", "api_key", "apikey", "authorization")
                }
                answer = await client.request(route.method, route.url(), params=query)
                assert answer.status_code == 401, str(route)
                assert secret not in answer.text


async def test_a_key_or_a_token_of_another_role_is_forbidden_and_of_the_right_one_is_let_in(house: House) -> None:
    async with house.client() as client:
        for route in guarded(house.app):
            for role in Role:
                for credentials in (house.keys[role], house.token(role)):
                    answer = await client.request(route.method, route.url(), headers=bearer(credentials))
                    if role in route.roles:
                        assert answer.status_code not in (401, 403), f"{route}: {role}"
                    else:
                        assert (answer.status_code, answer.json()["code"]) == (403, "role_not_allowed"), (
                            f"{route}: {role}"
                        )


async def test_the_name_of_the_scheme_may_be_written_in_any_case(house: House) -> None:
    route = next(route for route in guarded(house.app) if route.path == "/metrics")
    async with house.client() as client:
        for scheme in ("Bearer", "bearer", "BEARER"):
            for credentials in (house.keys[Role.ops], house.token(Role.ops)):
                answer = await client.get(route.url(), headers={"Authorization": f"{scheme} {credentials}"})
                assert answer.status_code == 200


async def test_without_an_issuer_no_token_is_taken(tmp_path: Path, issuer: Issuer) -> None:
    app = built("review", tmp_path).app
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.get("/metrics", headers=dict(bearer(issuer.token())))
    assert (answer.status_code, issuer.asked) == (401, 0)


async def test_while_the_issuer_was_never_there_keys_work_and_tokens_wait(house: House) -> None:
    house.issuer.status = 500
    async with house.client() as client:
        waiting = await client.get("/metrics", headers=dict(bearer(house.token(Role.ops))))
        assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "2")
        assert (await client.get("/metrics", headers=dict(bearer(house.keys[Role.ops])))).status_code == 200
        warnings = (await client.get("/health/ready")).json()["warnings"]
    assert warnings == ["the issuer's keys cannot be had (status 500)"]


async def test_a_broken_key_file_warns_in_readiness_and_answers_nobody_500(house: House, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[")
    await asyncio.sleep(1.1)
    async with house.client() as client:
        assert (await client.get("/metrics", headers=dict(bearer(house.keys[Role.ops])))).status_code == 200
        assert (await client.get("/metrics", headers=dict(bearer("gd_knobody_x")))).status_code == 401
        (warning,) = (await client.get("/health/ready")).json()["warnings"]
    assert "key file" in warning
