"""An OpenID Connect issuer on a port of this machine: discovery, a key set, and tokens signed with real keys."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import SecretStr

from services.review.settings import Settings
from shared.http.principal import NotAuthenticated, Reason
from shared.http.tokens import Tokens, tokens_of

AUDIENCE = "gongdan"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def segment(value: Any) -> str:
    return base64url(json.dumps(value).encode())


def published(key: PrivateKey, kid: str, **more: Any) -> dict[str, Any]:
    """The public part as a member of a key set."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        document = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        document = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        document = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**document, "kid": kid, "use": "sig", **more}


@dataclass
class Issuer:
    """What it serves can be changed at any time; `asked` counts the requests for its key set."""

    server: ThreadingHTTPServer
    private: dict[str, PrivateKey]
    documents: list[dict[str, Any]]
    asked: int = 0
    status: int = 200
    about: dict[str, Any] = field(default_factory=dict)
    delay_seconds: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/realms/test"

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of a supervisor's token that is good for five minutes; a change to None leaves the claim out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": ["account", AUDIENCE],
            "exp": now + 300,
            "iat": now,
            "sub": "7c1d0a52-6d9e-4f0c-9a53-2f5c1a6f7b10",
            "azp": "desk",
            "gongdan_role": "supervisor",
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, kid: str = "rsa", algorithm: str = "RS256", *, header: Any = None, **changes: Any) -> str:
        """A token signed by the key of this id; `header` overrides what its header says."""
        headers = {"kid": kid} | (header or {})
        return jwt.encode(self.claims(**changes), self.private[kid], algorithm=algorithm, headers=headers)

    def answer(self, path: str) -> tuple[int, bytes]:
        time.sleep(self.delay_seconds)
        if path.endswith("/openid-configuration"):
            about = {"issuer": self.url, "jwks_uri": f"{self.url}/certs"} | self.about
            return self.status, json.dumps(about).encode()
        self.asked += 1
        return self.status, json.dumps({"keys": self.documents}).encode()


def new_keys() -> dict[str, PrivateKey]:
    return {
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }


@contextmanager
def running_issuer(port: int = 0) -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = issuer.answer(self.path)
            self.send_response(status)
            if status in (301, 302):
                self.send_header("Location", f"{issuer.url}/elsewhere")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    keys = new_keys()
    issuer = Issuer(server, keys, [published(key, kid) for kid, key in keys.items()])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def trusting(issuer: Issuer, **more: Any) -> Tokens:
    """What a service that trusts this issuer takes tokens with."""
    values: dict[str, Any] = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE} | more
    found = tokens_of(
        Settings(database_url=SecretStr("postgresql+asyncpg://x"), kafka_bootstrap_servers="x", keys_file="x", **values)
    )
    assert found is not None
    return found


async def reason(tokens: Tokens, token: str) -> Reason | None:
    """Why the token is refused; None when it is taken."""
    try:
        await tokens.principal(token)
    except NotAuthenticated as error:
        return error.reason
    return None
