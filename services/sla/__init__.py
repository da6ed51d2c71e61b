"""sla watches every promise: clocks, escalations, repeats, and incidents (many complaints of one problem).

Owns: `complaint_facts`, `clocks`, `escalations`, `incidents`, `calendar_days`. Publishes `gongdan.sla`: clock.warned,
clock.breached, escalation.raised, incident.opened, incident.joined, incident.closed. Consumes the events of intake,
review and dispatch.
"""
