"""dispatch sends each approved ticket to the branch that must handle it, and brings it back to its closing.

Owns: `work_orders`, `callbacks`. Publishes `gongdan.dispatch` and one topic a branch, `gongdan.dispatch.<branch>`:
order.dispatched, order.accepted, order.progressed, order.replied, order.returned, order.transferred, order.raised,
order.urged, order.escalated, order.recalled, callback.recorded, ticket.closed, ticket.reopened. Consumes the events of
intake, review and sla, and the branches' commands on `gongdan.branch.replies`.
"""
