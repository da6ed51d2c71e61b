"""Composition of review: settings → database, broker, policy → HTTP and background roles."""

from services.review import api
from services.review.consumers import ReviewProjection
from services.review.settings import Settings
from services.review.tables import plumbing
from services.review.usecases import Desk
from shared.messaging.pace import ON_THE_WAY
from shared.policy import load_pack
from shared.service import Service


def build(settings: Settings) -> Service:
    service = Service("review", settings, plumbing.outbox, about="Checks tickets and returns, approves or merges them")
    desk = Desk(load_pack(settings.policy_pack), service.clock, settings.claim_seconds)
    service.routes(api.routes(desk, service.database))
    service.consume(ReviewProjection(desk), ON_THE_WAY)
    return service
