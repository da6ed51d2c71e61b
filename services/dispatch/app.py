"""Composition of dispatch: settings → database, broker, policy → HTTP and background roles."""

from services.dispatch import api
from services.dispatch.consumers import DispatchProjection
from services.dispatch.settings import Settings
from services.dispatch.tables import plumbing
from services.dispatch.usecases import Desk
from shared.calendar import CALENDAR_YEARS, WorkingCalendar, package_days
from shared.messaging.pace import ON_THE_WAY
from shared.policy import load_pack
from shared.service import Service


def build(settings: Settings) -> Service:
    service = Service(
        "dispatch", settings, plumbing.outbox, about="Sends each ticket to its branch and brings it back to its closing"
    )
    pack = load_pack(settings.policy_pack)
    days = {day: worked for day, worked, _ in package_days(*CALENDAR_YEARS)}
    calendar = WorkingCalendar(days, pack.working_hours, pack.tz, max(days))
    desk = Desk(pack, calendar, service.clock, settings.intake_url.rstrip("/"), settings.public_url.rstrip("/"))
    service.routes(api.routes(desk, service.database))
    service.consume(DispatchProjection(desk, settings.reply_keys()), ON_THE_WAY)
    if settings.kafka_security_protocol.startswith("SASL") and not settings.reply_keys():
        # Kafka does not say who wrote a record.
        service.warnings.append(lambda: ["commands are not signed: any branch can write in another's name (REPLY_KEY)"])
    return service
