"""Which of PostgreSQL's processes carry out statements, by the titles that they give themselves."""

import pytest

from tests.bench.machine import SESSION


@pytest.mark.parametrize("doing", ["idle", "INSERT", "idle in transaction", "COMMIT"])
def test_a_client_has_a_session(doing: str) -> None:
    assert SESSION.match(f"postgres: gongdan_sla gongdan_sla 127.0.0.1(52698) {doing}")


@pytest.mark.parametrize(
    "title",
    ["checkpointer", "background writer", "walwriter", "io worker 0", "autovacuum worker gongdan_intake"],
)
def test_background_is_no_session(title: str) -> None:
    assert not SESSION.match(f"postgres: {title}")


def test_the_server_itself_is_no_session() -> None:
    assert not SESSION.match("/opt/pginstall18/bin/postgres -D /data -c port=5432")
