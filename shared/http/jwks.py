"""The public keys of an OpenID Connect issuer (RFC 7517), fetched over HTTPS and kept.

`tokens` asks for a key by its id. The last good set stays in use while the issuer is away; a key id that is not known
makes us ask the issuer again, at most every 30 s, so that made-up ids cannot send requests through us.
"""

import asyncio
import ipaddress
import logging
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import orjson

from shared.errors import Transient

log = logging.getLogger(__name__)

# Each algorithm with the key type and curve that it needs (RFC 7518, RFC 8037). Symmetric ones have no place here: a
# public key would serve as their secret.
ALGORITHMS: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
MAX_AGE_SECONDS = 600.0
REFETCH_SECONDS = 30.0
RETRY_SECONDS = 5.0
CONNECT_SECONDS = 3.0
FETCH_SECONDS = 8.0
DOCUMENT_LIMIT_BYTES = 512 * 1024

KeySet = dict[tuple[str, str], jwt.PyJWK]
"""(key id, algorithm) → key."""


class Unusable(Exception):
    """What the issuer answered cannot be used."""


def must_be_safe(url: str) -> str:
    """The URL, if nobody on the way can change what it answers. Raises `ValueError` unless https, or loopback."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ValueError("an https URL is expected")
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise ValueError("https is needed, except on this machine")
    return url


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class IssuerKeys:
    """The usable keys of one issuer. `changes` counts the times that the set became another one."""

    def __init__(self, issuer: str, jwks_url: str | None, algorithms: frozenset[str]) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._algorithms = algorithms
        self._keys: KeySet = {}
        self._documents: list[Any] | None = None
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self._fault: str | None = None
        self.changes = 0

    async def find(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id for this algorithm, or None.

        Raises `Transient` when the issuer's keys were never to be had.
        """
        if not self._knows(key_id):
            await self._ask(RETRY_SECONDS if self._documents is None else REFETCH_SECONDS)
        if self._documents is None:
            raise Transient("the issuer's keys are not to be had")
        return self._keys.get((key_id, algorithm))

    async def run(self) -> None:
        """Keep the set fresh, until cancelled."""
        while True:
            await self._ask(RETRY_SECONDS)
            await asyncio.sleep(MAX_AGE_SECONDS if self._fault is None else RETRY_SECONDS)

    def warnings(self) -> list[str]:
        return [f"the issuer's keys cannot be had ({self._fault})"] if self._fault is not None else []

    def _knows(self, key_id: str) -> bool:
        return any(known == key_id for known, _ in self._keys)

    async def _ask(self, at_least_seconds: float) -> None:
        """Fetch the set, unless it was asked for within these seconds. Whoever comes meanwhile waits for the same."""
        async with self._asking:
            if time.monotonic() - self._asked_at < at_least_seconds:
                return
            try:
                async with asyncio.timeout(FETCH_SECONDS):
                    documents = await self._fetch()
                keys = self._usable(documents)
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, Unusable) as error:
                fault = str(error) if isinstance(error, Unusable) else type(error).__name__
                if fault != self._fault:
                    log.warning("the issuer's keys cannot be had", extra={"error": fault})
                self._fault = fault
            else:
                self._fault = None
                if documents != self._documents:
                    self._documents, self._keys = documents, keys
                    self.changes += 1
                    log.info("the issuer's keys are another set", extra={"count": len(documents)})
            finally:
                self._asked_at = time.monotonic()

    async def _fetch(self) -> list[Any]:
        # Redirects are not followed: they could lead to plain http, or to an address inside our network.
        async with httpx.AsyncClient(timeout=httpx.Timeout(FETCH_SECONDS, connect=CONNECT_SECONDS)) as client:
            url = self._jwks_url
            if url is None:
                about = await _document(client, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
                # OpenID Connect Discovery 1.0, section 4.3.
                if about.get("issuer") != self._issuer:
                    raise Unusable("the discovery document is of another issuer")
                url = must_be_safe(str(about.get("jwks_uri")))
            documents = (await _document(client, url)).get("keys")
        if not isinstance(documents, list):
            raise Unusable("no key set")
        return documents

    def _usable(self, documents: list[Any]) -> KeySet:
        keys: KeySet = {}
        for document in documents:
            if not isinstance(document, dict) or not isinstance(document.get("kid"), str):
                continue
            for algorithm in self._algorithms:
                if (key := _key(document, algorithm)) is not None:
                    keys[document["kid"], algorithm] = key
        if not keys:
            raise Unusable("no usable key")
        return keys


async def _document(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    body = bytearray()
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        if answer.status_code != httpx.codes.OK:
            raise Unusable(f"status {answer.status_code}")
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > DOCUMENT_LIMIT_BYTES:
                raise Unusable("the document is too large")
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise Unusable("no JSON object")
    return document


def _key(document: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    """The key, if it may verify signatures of this algorithm."""
    kind, curve = ALGORITHMS[algorithm]
    if document.get("kty") != kind or (curve is not None and document.get("crv") != curve):
        return None
    if document.get("alg", algorithm) != algorithm or document.get("use", "sig") != "sig" or "d" in document:
        return None
    operations = document.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key = jwt.PyJWK(document, algorithm)
    except jwt.PyJWTError:
        return None
    # A short RSA key comes with a remark of the library.
    return key if key.Algorithm.check_key_length(key.key) is None else None
