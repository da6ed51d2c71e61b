"""review checks every ticket and returns, approves, merges or holds it for a person.

Owns: `reviews`, `approvals`. Publishes `gongdan.review`: review.held, review.reclassified, review.approved,
review.returned, review.merged, approval.requested, approval.granted, approval.refused. Consumes the events of intake,
dispatch (what a branch gave back) and sla (what moves up in the queue).
"""
