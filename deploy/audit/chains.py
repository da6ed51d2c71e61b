"""The seals over the audit trail of each database, verified as `python -m services.<name> audit` does."""

from collections.abc import Mapping

from deploy.audit.databases import READ_ONLY
from deploy.audit.evidence import Evidence
from shared.database.audit import verify
from shared.database.connection import one_connection

# The sealer of a service passes every second; where rows wait this long, none runs.
UNSEALED_SECONDS = 60.0


async def verify_chains(evidence: Evidence, databases: Mapping[str, str]) -> None:
    """Raises what the driver and the network raise."""
    for service, url in databases.items():
        async with one_connection(url, READ_ONLY) as connection:
            report = await verify(connection)
        evidence.scope.sealed += report.rows
        evidence.scope.chain_faults += [f"{service}: {fault.kind}, {fault.detail}" for fault in report.faults]
        if report.oldest_unsealed_seconds > UNSEALED_SECONDS:
            oldest = f"the oldest for {report.oldest_unsealed_seconds:.0f} s"
            evidence.scope.unsealed.append(f"{service}: {report.unsealed} rows have no seal yet, {oldest}")
