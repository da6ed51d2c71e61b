"""Composition of sla: settings → database, broker, policy → HTTP and background roles."""

from services.sla import api
from services.sla.consumers import SlaProjection
from services.sla.jobs import Jobs
from services.sla.settings import Settings
from services.sla.tables import plumbing
from services.sla.usecases.desk import Desk
from shared.database.engine import Database
from shared.messaging.pace import BESIDE
from shared.policy import load_pack
from shared.service import Service

JOBS_POOL_SIZE = 3


def build(settings: Settings) -> Service:
    service = Service("sla", settings, plumbing.outbox, about="Watches every promise, escalates what is late")
    desk = Desk(load_pack(settings.policy_pack), service.clock)
    service.routes(api.routes(desk, service.database))
    service.consume(SlaProjection(desk), BESIDE)
    # The jobs have their own connections, so that a long burst of the sweep cannot hold up the consumer.
    timed = Database(settings.database_url.get_secret_value(), pool_size=JOBS_POOL_SIZE)
    timed.after_publish(service.relay.wake)
    jobs = Jobs(desk, timed, service.leases, service.watch, settings)
    for job in (jobs.sweep, jobs.incidents, jobs.calendar):
        service.job(job)
    service.checks["sweep"] = jobs.check
    service.warnings.append(jobs.warnings)
    return service
