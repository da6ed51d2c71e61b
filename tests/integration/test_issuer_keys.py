"""The key set of an OpenID Connect issuer: how it is found, fetched and kept, and which settings are refused."""

import asyncio
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import RSAAlgorithm
from pydantic import SecretStr, ValidationError

from services.review.settings import Settings
from shared.errors import Transient
from shared.http import jwks
from shared.http.jwks import IssuerKeys
from shared.http.principal import Reason
from tests.support.issuer import Issuer, published, reason, running_issuer, trusting


async def test_the_key_set_is_found_by_discovery_or_by_its_address(issuer: Issuer) -> None:
    assert await reason(trusting(issuer), issuer.token()) is None
    issuer.about = {"issuer": "https://elsewhere.example"}
    strange = trusting(issuer)
    with pytest.raises(Transient):
        await strange.principal(issuer.token())
    assert strange.keys.warnings() == ["the issuer's keys cannot be had (the discovery document is of another issuer)"]
    assert await reason(trusting(issuer, oidc_jwks_url=f"{issuer.url}/certs"), issuer.token()) is None


@pytest.mark.parametrize("address", ["http://keys.example/certs", "ftp://x/y", "file:///etc/passwd", None])
async def test_discovery_cannot_lead_to_an_unsafe_address(issuer: Issuer, address: str | None) -> None:
    issuer.about = {"jwks_uri": address}
    tokens = trusting(issuer)
    with pytest.raises(Transient):
        await tokens.principal(issuer.token())
    assert tokens.keys.warnings() == ["the issuer's keys cannot be had (ValueError)"]


async def test_a_redirect_is_not_followed(issuer: Issuer) -> None:
    issuer.status = 302
    tokens = trusting(issuer, oidc_jwks_url=f"{issuer.url}/certs")
    with pytest.raises(Transient):
        await tokens.principal(issuer.token())
    assert (issuer.asked, tokens.keys.warnings()) == (1, ["the issuer's keys cannot be had (status 302)"])


async def test_a_new_key_of_the_issuer_is_fetched_and_an_old_one_ends(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "REFETCH_SECONDS", 0.0)
    tokens, old = trusting(issuer), issuer.token()
    assert await reason(tokens, old) is None
    issuer.private["next"] = ec.generate_private_key(ec.SECP256R1())
    issuer.documents = [published(issuer.private["next"], "next")]
    assert await reason(tokens, old) is None
    assert await reason(tokens, issuer.token("next", "ES256")) is None
    assert await reason(tokens, old) is Reason.unknown_key


async def test_a_flood_of_unknown_key_ids_asks_the_issuer_once(issuer: Issuer) -> None:
    tokens = trusting(issuer)
    assert await reason(tokens, issuer.token()) is None
    assert issuer.asked == 1
    tokens.keys._asked_at -= jwks.REFETCH_SECONDS
    flood = [issuer.token(header={"kid": f"made-up-{number}"}) for number in range(200)]
    begun = time.monotonic()
    assert set(await asyncio.gather(*(reason(tokens, token) for token in flood))) == {Reason.unknown_key}
    assert time.monotonic() - begun < 5
    assert issuer.asked == 2
    assert await reason(tokens, issuer.token("ec", "ES256")) is None
    assert issuer.asked == 2


async def test_while_the_issuer_is_away_its_last_keys_stay_in_use(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwks, "REFETCH_SECONDS", 0.0)
    tokens = trusting(issuer)
    assert await reason(tokens, issuer.token()) is None
    documents = issuer.documents
    for status, given_documents in ((500, documents), (200, []), (200, [{"kty": "oct", "kid": "rsa", "k": "AAAA"}])):
        issuer.status, issuer.documents = status, given_documents
        assert await reason(tokens, issuer.token(header={"kid": "nobody"})) is Reason.unknown_key
        assert len(tokens.keys.warnings()) == 1
        assert await reason(tokens, issuer.token("ed", "EdDSA")) is None
    issuer.status, issuer.documents = 200, documents
    assert await reason(tokens, issuer.token(header={"kid": "nobody"})) is Reason.unknown_key
    assert tokens.keys.warnings() == []


async def test_without_any_key_set_a_token_has_to_wait_and_not_for_long() -> None:
    with running_issuer() as gone:
        tokens, token = trusting(gone), gone.token()
    begun = time.monotonic()
    for _ in range(50):
        with pytest.raises(Transient):
            await tokens.principal(token)
    assert time.monotonic() - begun < 5
    assert len(tokens.keys.warnings()) == 1
    tokens.keys._asked_at -= jwks.RETRY_SECONDS
    with running_issuer(port=gone.server.server_address[1]) as back:
        assert await reason(tokens, back.token()) is None
    assert tokens.keys.warnings() == []


async def test_a_slow_issuer_holds_up_nobody_whose_key_is_known(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 1.0)
    tokens = trusting(issuer)
    assert await reason(tokens, issuer.token()) is None
    tokens.keys._asked_at -= jwks.REFETCH_SECONDS
    issuer.delay_seconds = 2.0
    waiting = asyncio.create_task(reason(tokens, issuer.token(header={"kid": "nobody"})))
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    assert await reason(tokens, issuer.token("ec", "ES256")) is None
    assert time.monotonic() - begun < 0.5
    assert not waiting.done()
    assert await waiting is Reason.unknown_key
    assert tokens.keys.warnings() == ["the issuer's keys cannot be had (TimeoutError)"]


async def test_in_the_background_the_set_is_fetched_before_anybody_comes(issuer: Issuer) -> None:
    tokens = trusting(issuer)
    running = asyncio.create_task(tokens.keys.run())
    await asyncio.wait([running], timeout=1.0)
    running.cancel()
    assert issuer.asked == 1
    assert await reason(tokens, issuer.token()) is None
    assert issuer.asked == 1


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"alg": "RSA-OAEP"},
        {"kid": 7},
        {"d": "AQAB"},
        {"n": "AQAB"},
        {"n": None},
        {"e": "!"},
    ],
    ids=str,
)
async def test_a_document_that_is_no_signing_key_is_left_out(issuer: Issuer, change: dict[str, Any]) -> None:
    issuer.documents = [issuer.documents[0] | change, issuer.documents[1], "no document"]  # type: ignore[list-item]
    tokens = trusting(issuer)
    assert await reason(tokens, issuer.token("ec", "ES256")) is None
    assert await reason(tokens, issuer.token()) is Reason.unknown_key


async def test_a_private_key_that_was_published_is_left_out(issuer: Issuer) -> None:
    private = issuer.private["rsa"]
    assert isinstance(private, rsa.RSAPrivateKey)
    del issuer.documents[0]
    issuer.documents.append(RSAAlgorithm.to_jwk(private, as_dict=True) | {"kid": "rsa", "key_ops": ["sign", "verify"]})
    assert await reason(trusting(issuer), issuer.token()) is Reason.unknown_key


async def test_a_short_key_is_left_out(issuer: Issuer) -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    issuer.documents = [published(short, "short"), *issuer.documents]
    tokens = trusting(issuer)
    await tokens.principal(issuer.token())
    assert await tokens.keys.find("short", "RS256") is None


async def test_an_endless_document_is_cut_off(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "DOCUMENT_LIMIT_BYTES", 100)
    keys = IssuerKeys(issuer.url, f"{issuer.url}/certs", frozenset({"RS256"}))
    with pytest.raises(Transient):
        await keys.find("rsa", "RS256")
    assert keys.warnings() == ["the issuer's keys cannot be had (the document is too large)"]


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"oidc_issuer": "https://sso.example"},
        {"oidc_audience": "gongdan"},
        {"oidc_issuer": "http://sso.example", "oidc_audience": "gongdan"},
        {"oidc_issuer": "http://127.0.0.1.example", "oidc_audience": "gongdan"},
        {"oidc_issuer": "sso.example", "oidc_audience": "gongdan"},
        {"oidc_jwks_url": "http://10.0.0.1/certs"},
        *({"oidc_algorithms": name} for name in ("HS256", "RS256,HS512", "none", "NONE", "", "RS256,", "rs256")),
    ],
    ids=str,
)
def test_unsafe_settings_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="oidc_"):
        Settings(database_url=SecretStr("x"), kafka_bootstrap_servers="x", keys_file="x", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["https://sso.example/realms/x", "http://localhost:1", "http://[::1]:1/x"])
def test_an_issuer_is_reached_over_https_or_on_this_machine(url: str) -> None:
    Settings(
        database_url=SecretStr("x"), kafka_bootstrap_servers="x", keys_file="x", oidc_issuer=url, oidc_audience="g"
    )
