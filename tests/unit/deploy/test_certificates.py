"""The broker's certificate is one that a strict client trusts, for the names asked for and for no other."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from deploy.kafka.certificates import AUTHORITY, AUTHORITY_KEY, SERVER, make_certificates

HOSTS = ["127.0.0.1", "kafka"]


def handshake(folder: Path, host: str, trusted: Path) -> None:
    """TLS from end to end in memory. Raises `ssl.SSLError`."""
    client = ssl.create_default_context(cafile=trusted)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / SERVER)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [ours, theirs, ours, theirs]
    for side in waiting:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


def test_a_strict_client_trusts_it_for_its_names_only(tmp_path: Path) -> None:
    make_certificates(tmp_path, HOSTS)
    for host in HOSTS:
        handshake(tmp_path, host, tmp_path / AUTHORITY)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path, "elsewhere", tmp_path / AUTHORITY)


def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    make_certificates(tmp_path / "a", HOSTS)
    make_certificates(tmp_path / "b", HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "a", "kafka", tmp_path / "b" / AUTHORITY)


def test_it_is_made_anew_for_other_names_and_before_it_ends_and_the_authority_stays(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert make_certificates(tmp_path, HOSTS, now) == [AUTHORITY, AUTHORITY_KEY, SERVER]
    assert make_certificates(tmp_path, HOSTS, now) == []
    assert make_certificates(tmp_path, [*HOSTS, "kafka.example"], now) == [SERVER]
    ends = x509.load_pem_x509_certificate((tmp_path / SERVER).read_bytes()).not_valid_after_utc
    assert make_certificates(tmp_path, [*HOSTS, "kafka.example"], ends - timedelta(days=31)) == []
    assert make_certificates(tmp_path, [*HOSTS, "kafka.example"], ends - timedelta(days=29)) == [SERVER]


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    make_certificates(tmp_path, HOSTS)
    for name in (AUTHORITY_KEY, SERVER):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
