"""Tokens of an OpenID Connect issuer that really answers: what is taken, and what is refused."""

import asyncio
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.http import jwks
from shared.http.keys import Role
from shared.http.principal import Reason
from shared.http.tokens import SKEW_SECONDS
from tests.support.issuer import Issuer, base64url, published, reason, segment, trusting

ANY_ALGORITHM = ",".join(jwks.ALGORITHMS)


# ---- what is taken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kid", "algorithm"), [("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA")])
async def test_a_token_signed_by_the_issuer_is_taken(issuer: Issuer, kid: str, algorithm: str) -> None:
    principal = await trusting(issuer).principal(issuer.token(kid, algorithm))
    subject = issuer.claims()["sub"]
    assert (principal.role, principal.scope, principal.name) == (Role.supervisor, None, subject)
    assert principal.actor == f"supervisor:{subject}"
    assert principal.key_id == f"oidc:{subject}"


async def test_role_scope_and_client_come_from_the_claims_that_are_set(issuer: Issuer) -> None:
    tokens = trusting(issuer, oidc_role_claim="r", oidc_scope_claim="s", oidc_client_claim="azp")
    branch = await tokens.principal(issuer.token(r="branch", s="jinan"))
    front = await tokens.principal(issuer.token(r="front_line", s="website"))
    anyone = await tokens.principal(issuer.token(r="front_line"))
    assert (branch.role, branch.scope) == (Role.branch, "jinan")
    assert (front.role, front.scope, anyone.scope) == (Role.front_line, "website", None)
    # Two branches behind one portal never get each other's kept answers.
    other = await tokens.principal(issuer.token(r="branch", s="qingdao"))
    assert len({branch.client, front.client, anyone.client, other.client}) == 4
    assert all("desk" in each.client for each in (branch, front, anyone, other))


async def test_a_scope_that_a_role_has_not_is_left_out(issuer: Issuer) -> None:
    principal = await trusting(issuer).principal(issuer.token(gongdan_role="reviewer", gongdan_scope="jinan"))
    assert principal.scope is None
    assert principal.actor.startswith("reviewer:7c1d")


@pytest.mark.parametrize("kind", ["JWT", "at+jwt", "application/at+JWT", None])
async def test_access_tokens_may_say_their_type(issuer: Issuer, kind: str | None) -> None:
    assert await reason(trusting(issuer), issuer.token(header={"typ": kind})) is None


async def test_two_clocks_may_differ_by_a_minute(issuer: Issuer) -> None:
    now, tokens = int(time.time()), trusting(issuer)
    inside, outside = SKEW_SECONDS - 5, SKEW_SECONDS + 5
    assert await reason(tokens, issuer.token(exp=now - inside)) is None
    assert await reason(tokens, issuer.token(exp=now - outside)) is Reason.expired
    for begins in ("nbf", "iat"):
        early, too_early = issuer.claims(**{begins: now + inside}), issuer.claims(**{begins: now + outside})
        assert await reason(tokens, issuer.token(**early)) is None
        assert await reason(tokens, issuer.token(**too_early)) is Reason.not_yet_valid


async def test_a_remembered_token_ends_when_it_ends(issuer: Issuer) -> None:
    tokens = trusting(issuer)
    token = issuer.token(exp=int(time.time()) - SKEW_SECONDS + 2)
    assert await reason(tokens, token) is None
    assert await reason(tokens, token) is None
    await asyncio.sleep(2.1)
    assert await reason(tokens, token) is Reason.expired


async def test_verified_tokens_are_remembered_within_bounds(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.http.tokens.REMEMBERED_TOKENS", 3)
    tokens = trusting(issuer)
    made = [issuer.token("ed", "EdDSA", sub=str(number)) for number in range(5)]
    for token in made:
        await tokens.principal(token)
    assert list(tokens._verified) == [hashlib.sha256(token.encode()).digest() for token in made[2:]]
    for garbage in ("x.y.z", "", made[0][:-4]):
        assert await reason(tokens, garbage) is not None
    assert len(tokens._verified) == 3


# ---- what is refused -------------------------------------------------------------------------------------------------


def unsigned(issuer: Issuer, algorithm: Any, signature: str = "") -> str:
    header = {"typ": "JWT", "alg": algorithm, "kid": "rsa"}
    return f"{segment(header)}.{segment(issuer.claims())}.{signature}"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "none ", "", None, ["RS256"], {"a": 1}, 0])
async def test_an_unsigned_token_is_refused_however_it_says_so(issuer: Issuer, algorithm: Any) -> None:
    tokens = trusting(issuer, oidc_algorithms=ANY_ALGORITHM)
    for signature in ("", "AA", base64url(b"\0" * 256)):
        assert await reason(tokens, unsigned(issuer, algorithm, signature)) is Reason.algorithm


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_public_key_is_no_shared_secret(issuer: Issuer, algorithm: str) -> None:
    public = issuer.private["rsa"].public_key()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        issuer.documents[0]["n"].encode(),
    ]
    signed = f"{segment({'typ': 'JWT', 'alg': algorithm, 'kid': 'rsa'})}.{segment(issuer.claims())}"
    for secret in secrets:
        mac = hmac.new(secret, signed.encode(), f"sha{algorithm[2:]}").digest()
        tokens = trusting(issuer, oidc_algorithms=ANY_ALGORITHM)
        assert await reason(tokens, f"{signed}.{base64url(mac)}") is Reason.algorithm


async def test_an_algorithm_that_is_not_set_or_not_of_the_key_is_refused(issuer: Issuer) -> None:
    assert await reason(trusting(issuer, oidc_algorithms="ES256"), issuer.token()) is Reason.algorithm
    assert await reason(trusting(issuer), issuer.token(algorithm="RS512")) is Reason.algorithm
    named = issuer.token(header={"kid": "ec"})
    assert await reason(trusting(issuer), named) is Reason.unknown_key
    issuer.documents[0]["alg"] = "RS256"
    bound = trusting(issuer, oidc_algorithms="RS256,PS256")
    assert await reason(bound, issuer.token(algorithm="PS256")) is Reason.unknown_key
    assert await reason(bound, issuer.token()) is None
    del issuer.documents[0]["alg"]


FOREIGN = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"aud": "other"}, Reason.audience),
        ({"aud": ["other", "account"]}, Reason.audience),
        ({"aud": ["GONGDAN"]}, Reason.audience),
        ({"aud": None}, Reason.claims),
        ({"aud": {"gongdan": 1}}, Reason.audience),
        ({"iss": "https://elsewhere.example"}, Reason.issuer),
        ({"iss": None}, Reason.claims),
        ({"iss": ["x"]}, Reason.issuer),
        ({"exp": None}, Reason.claims),
        ({"exp": "soon"}, Reason.unreadable),
        ({"exp": "9999999999"}, Reason.claims),
        ({"exp": 1}, Reason.expired),
        ({"exp": True}, Reason.expired),
        ({"nbf": "x"}, Reason.unreadable),
        ({"sub": None}, Reason.claims),
        ({"sub": ""}, Reason.claims),
        ({"sub": 7}, Reason.unreadable),
        ({"sub": "a\nb"}, Reason.claims),
        ({"sub": "x" * 129}, Reason.claims),
        ({"gongdan_role": None}, Reason.grant),
        ({"gongdan_role": "admin"}, Reason.grant),
        ({"gongdan_role": "Supervisor"}, Reason.grant),
        ({"gongdan_role": ["supervisor"]}, Reason.grant),
        ({"gongdan_role": "branch"}, Reason.grant),
        ({"gongdan_role": "branch", "gongdan_scope": ""}, Reason.grant),
        ({"gongdan_role": "branch", "gongdan_scope": "atlantis"}, Reason.grant),
        ({"gongdan_role": "branch", "gongdan_scope": ["jinan"]}, Reason.grant),
        ({"gongdan_role": "front_line", "gongdan_scope": ["website"]}, Reason.claims),
        ({"gongdan_role": "front_line", "gongdan_scope": ""}, Reason.claims),
    ],
    ids=str,
)
async def test_a_genuine_token_with_wrong_claims_is_refused(
    issuer: Issuer, changes: dict[str, Any], wanted: Reason
) -> None:
    header, body = {"typ": "JWT", "alg": "RS256", "kid": "rsa"}, issuer.claims(**changes)
    token = jwt.api_jws.encode(json.dumps(body).encode(), issuer.private["rsa"], "RS256", headers=header)
    assert await reason(trusting(issuer), token) is wanted


@pytest.mark.parametrize("claims", ["[]", "7", "null", "{", "", '{"exp": 1e999}', '{"exp": NaN}'])
async def test_a_signed_body_that_is_no_set_of_claims_is_refused(issuer: Issuer, claims: str) -> None:
    token = jwt.api_jws.encode(claims.encode(), issuer.private["rsa"], "RS256", headers={"kid": "rsa"})
    assert await reason(trusting(issuer), token) in (Reason.unreadable, Reason.claims)


async def test_an_altered_or_foreign_signature_is_refused(issuer: Issuer) -> None:
    tokens, token = trusting(issuer), issuer.token()
    head, body, signature = token.split(".")
    other = segment(issuer.claims(gongdan_role="ops"))
    assert await reason(tokens, f"{head}.{other}.{signature}") is Reason.signature
    altered = ("B" if signature.startswith("A") else "A") + signature[1:]
    assert await reason(tokens, f"{head}.{body}.{altered}") is Reason.signature
    assert await reason(tokens, f"{head}.{body}.") is Reason.signature
    foreign = jwt.encode(issuer.claims(), FOREIGN, "RS256", headers={"kid": "rsa"})
    assert await reason(tokens, foreign) is Reason.signature


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
async def test_a_key_that_a_token_brings_along_is_not_read(issuer: Issuer, name: str) -> None:
    document = published(FOREIGN, "mine")
    value = {"jku": f"{issuer.url}/mine", "x5u": f"{issuer.url}/mine", "jwk": document, "x5c": ["MIIB"]}[name]
    issuer.asked = 0
    tokens = trusting(issuer)
    for kid, wanted in (("mine", Reason.unknown_key), ("rsa", Reason.signature)):
        token = jwt.encode(issuer.claims(), FOREIGN, "RS256", headers={"kid": kid, name: value})
        assert await reason(tokens, token) is wanted
    assert issuer.asked == 1
    assert await reason(tokens, issuer.token(header={name: value})) is None


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ({"crit": ["exp"], "exp": 1}, Reason.unreadable),
        ({"crit": []}, Reason.unreadable),
        ({"crit": ["b64"], "b64": True}, Reason.unreadable),
        ({"crit": "b64"}, Reason.unreadable),
        ({"typ": "logout+jwt"}, Reason.unreadable),
        ({"typ": "dpop+jwt"}, Reason.unreadable),
        ({"typ": ["JWT"]}, Reason.unreadable),
        ({"kid": None}, Reason.unreadable),
        ({"kid": 7}, Reason.unreadable),
        ({"kid": "nobody"}, Reason.unknown_key),
        ({"kid": "../../rsa"}, Reason.unknown_key),
    ],
    ids=str,
)
async def test_a_header_that_we_do_not_understand_is_refused(
    issuer: Issuer, header: dict[str, Any], wanted: Reason
) -> None:
    signed = f"{segment({'typ': 'JWT', 'alg': 'RS256', 'kid': 'rsa'} | header)}.{segment(issuer.claims())}"
    private = issuer.private["rsa"]
    assert isinstance(private, rsa.RSAPrivateKey)
    signature = private.sign(signed.encode(), PKCS1v15(), SHA256())
    assert await reason(trusting(issuer), f"{signed}.{base64url(signature)}") is wanted


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x"]), JSON, max_size=6)


@settings(max_examples=200, deadline=None)
@given(header=HEADERS | JSON, body=JSON, tail=st.text(max_size=8), alg=st.booleans())
async def test_nothing_that_anybody_sends_is_more_than_refused(
    shared_issuer: Issuer, header: Any, body: Any, tail: str, alg: bool
) -> None:
    if alg and isinstance(header, dict):
        header = header | {"alg": "RS256", "kid": "rsa"}
    assert await reason(trusting(shared_issuer), f"{segment(header)}.{segment(body)}.{tail}") is not None
    assert await reason(trusting(shared_issuer), tail) is not None
