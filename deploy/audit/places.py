"""Where personal data is searched for beside the log: every column of the databases, the log files, the metrics.

No column is left out. `tickets.personal` is searched too: it is encrypted, so nothing readable may be found there.
What is reported is the place, never what stands there: a column with the row's `ctid`, a file with the line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from deploy.audit.databases import ROWS_AT_ONCE, read_only
from deploy.audit.evidence import Evidence
from deploy.audit.findings import SHOWN
from deploy.audit.personal import Search

METRICS_SECONDS = 10.0

_COLUMNS = """
SELECT c.relname AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       array_agg(t.typname = 'bytea' ORDER BY a.attnum) AS raw
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid JOIN pg_type AS t ON t.oid = a.atttypid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attnum > 0 AND NOT a.attisdropped
  AND t.typname IN ('text', 'varchar', 'bpchar', 'bytea', 'json', 'jsonb', '_text', '_varchar')
GROUP BY c.relname ORDER BY c.relname
"""


async def search_databases(evidence: Evidence, search: Search, databases: Mapping[str, str]) -> None:
    """Each table in a transaction of its own, so that no snapshot is held for long."""
    for service, url in databases.items():
        async with read_only(url) as connection:
            for table in await connection.fetch(_COLUMNS):
                async with connection.transaction(readonly=True):
                    await _search_table(evidence, search, service, connection, table)


async def _search_table(
    evidence: Evidence, search: Search, service: str, connection: asyncpg.Connection, table: Any
) -> None:
    columns = [
        f'"{name}"' if raw else f'"{name}"::text' for name, raw in zip(table["columns"], table["raw"], strict=True)
    ]
    query = f'SELECT tableoid::regclass::text, ctid::text, {", ".join(columns)} FROM "{table["name"]}"'
    async for row in connection.cursor(query, prefetch=ROWS_AT_ONCE // 5):
        for name, value in zip(table["columns"], row[2:], strict=True):
            if value is not None:
                text = bytes(value).decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                found_in(evidence, search, text, f"database {service}: {row[0]}.{name}, ctid {row[1]}")


def search_logs(evidence: Evidence, search: Search, folder: Path) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                found_in(evidence, search, line, f"{path}:{number}")


async def search_metrics(evidence: Evidence, search: Search, services: Mapping[str, str], key: str) -> None:
    """The metrics of each service that answers; one that is down has none."""
    async with httpx.AsyncClient(timeout=METRICS_SECONDS, trust_env=False) as client:
        for service, url in services.items():
            try:
                answer = await client.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"})
            except httpx.HTTPError:
                continue
            for number, line in enumerate(answer.text.splitlines(), start=1):
                found_in(evidence, search, line, f"metrics of {service}, line {number}")


def found_in(evidence: Evidence, search: Search, text: str, place: str) -> None:
    """Search one text and keep the place if something is found."""
    scope = evidence.scope
    scope.searched += 1
    for kind in search.kinds(text):
        scope.leaked += 1
        if len(scope.personal) < SHOWN:
            scope.personal.append(f"{kind} in {place}")
