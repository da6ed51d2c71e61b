"""Composition of intake: settings → database, broker, policy → HTTP and background roles."""

from services.intake import api
from services.intake.consumers import Intake
from services.intake.jobs import Jobs
from services.intake.rebuild import IntakeReadState
from services.intake.schemas import RegisterTicket
from services.intake.settings import Settings
from services.intake.tables import plumbing
from services.intake.usecases.accept import Accept
from services.intake.usecases.desk import Desk
from services.intake.usecases.register import Registration, register_tickets
from shared.database.group_commit import GroupCommit
from shared.http import fast_post
from shared.http.auth import allow
from shared.messaging.pace import BESIDE
from shared.policy import load_pack
from shared.privacy import Vault
from shared.service import Service


def build(settings: Settings) -> Service:
    service = Service(
        "intake",
        settings,
        plumbing.outbox,
        about="Takes complaints in and shows what became of them",
        streamed={api.IMPORT_PATH: settings.import_body_limit_bytes},
    )
    vault = Vault(settings.data_key.get_secret_value(), settings.index_key.get_secret_value())
    desk = Desk(load_pack(settings.policy_pack), vault, service.clock)
    registrations: GroupCommit[Registration, bytes] = GroupCommit(
        lambda items: register_tickets(desk, service.database, items), Registration.touches
    )
    accept = Accept(desk, registrations, lambda: service.relay.waiting > settings.outbox_backlog_limit)
    service.routes(api.routes(desk, service.database, accept))
    fast_post.install(service.app, api.ACCEPT_PATH, allow(*api.FRONT), RegisterTicket, accept)
    service.consume(Intake(), BESIDE)
    jobs = Jobs(desk, service.background, service.leases, settings.personal_retention_days)
    service.job(jobs.keep)
    service.warnings.append(jobs.warnings)
    service.rebuilds(IntakeReadState())
    return service
