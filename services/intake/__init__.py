"""intake takes complaints in, gives them their number, and holds the whole picture of every ticket.

Owns: `tickets`, `ticket_timeline`. Publishes `gongdan.intake`: ticket.registered, ticket.supplemented,
ticket.withdrawn, ticket.answered. Consumes the events of review, dispatch and sla, for status and timeline.
"""
