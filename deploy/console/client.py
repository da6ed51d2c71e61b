"""Whom the console talks to: the services' addresses and a key, from `run.json` or from the command line."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

DEFAULT_RUN_FILE = Path(".data/run.json")
# A redrive of 100 letters or a check of a whole read state takes its time; connecting does not.
ANSWER_SECONDS = 600.0
CONNECT_SECONDS = 5.0
# Longer than readiness takes over a database that does not answer.
STATUS_SECONDS = 10.0


class Unusable(Exception):
    """The command line or a file it names does not make sense. Exit code 2."""


class Unreachable(Exception):
    """A service does not answer. Exit code 3."""


class Refused(Exception):
    """A service said no. Exit code 1."""


@dataclass(frozen=True)
class Target:
    """The services by name, and the key that opens their operators' routes."""

    services: Mapping[str, str]
    key: str

    def url(self, service: str) -> str:
        if service not in self.services:
            raise Unusable(f"no address of {service} is known; known: {', '.join(self.services) or 'none'}")
        return self.services[service]

    def call(self, service: str, method: str, path: str, **more: Any) -> Any:
        """The answer's JSON. Raises `Unreachable`, or `Refused` with what the problem document says."""
        answer = self._send(service, method, path, **more)
        if answer.status_code >= 400:
            raise Refused(f"{service}: {_problem(answer)}")
        return answer.json()

    def try_call(self, service: str, path: str) -> Any:
        """As `call` with GET, but what was refused comes back as its text."""
        try:
            return self.call(service, "GET", path, timeout=STATUS_SECONDS)
        except Refused as error:
            return str(error)

    def readiness(self, service: str) -> dict[str, Any]:
        """What `/health/ready` says, ready or not."""
        answer = self._send(service, "GET", "/health/ready", timeout=STATUS_SECONDS)
        if answer.status_code not in (200, 503):
            raise Refused(f"{service}: {_problem(answer)}")
        found: dict[str, Any] = answer.json()
        return found

    def _send(self, service: str, method: str, path: str, **more: Any) -> httpx.Response:
        url = self.url(service)
        try:
            with httpx.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
                trust_env=False,
            ) as client:
                return client.request(method, path, **more)
        except httpx.TransportError as error:
            raise Unreachable(f"{service} at {url} does not answer ({type(error).__name__})") from None


def target(run_file: Path | None, addresses: list[str], key_file: Path | None) -> Target:
    """The services named on the command line, or else those of the run file. Raises `Unusable`."""
    if not addresses:
        return _of_run(run_file or DEFAULT_RUN_FILE)
    if key_file is None:
        raise Unusable("--service needs --key-file, a file with an API key of the role ops")
    services = {}
    for address in addresses:
        name, separator, url = address.partition("=")
        if not separator or not url.startswith(("http://", "https://")):
            raise Unusable(f"--service is name=http://host:port, not {address!r}")
        services[name] = url.rstrip("/")
    return Target(services, _read(key_file).strip())


def _of_run(path: Path) -> Target:
    try:
        facts = json.loads(_read(path))
        return Target({name: service["url"] for name, service in facts["services"].items()}, facts["keys"]["ops"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{path} is not a run file ({type(error).__name__})") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}; give --run-file, or --service and --key-file") from None


def _problem(answer: httpx.Response) -> str:
    try:
        body = answer.json()
        return f"{answer.status_code} {body['code']}: {body['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code}"
