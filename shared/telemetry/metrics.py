"""Every metric of every service, named in one place. Labels never hold ids or personal data."""

import math

from prometheus_client import Counter, Gauge, Histogram

http_requests = Counter("gongdan_http_requests_total", "Answers by route and status", ["method", "route", "status"])
http_seconds = Histogram(
    "gongdan_http_request_seconds",
    "Time to answer, by route",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
authentication_failures = Counter("gongdan_authentication_failures_total", "Requests that were not let in", ["reason"])
http_refused = Counter("gongdan_http_refused_total", "Connections refused or cut off, by reason", ["reason"])
tickets_accepted = Counter("gongdan_tickets_accepted_total", "Tickets given a number")
group_commit_size = Histogram(
    "gongdan_group_commit_size", "Requests committed together", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
outbox_published = Counter("gongdan_outbox_published_total", "Events acknowledged by the broker", ["topic"])
outbox_backlog = Gauge("gongdan_outbox_backlog", "Events not yet published")
outbox_oldest_seconds = Gauge("gongdan_outbox_oldest_seconds", "Age of the oldest unpublished event, real seconds")
events_applied = Counter("gongdan_events_applied_total", "Events applied", ["type"])
events_dropped = Counter("gongdan_events_dropped_total", "Events seen before", ["topic"])
events_parked = Counter("gongdan_events_parked_total", "Events parked until an earlier one comes", ["topic"])
events_dead = Counter("gongdan_events_dead_total", "Records put into the dead letters", ["topic"])
part_ready = Gauge("gongdan_part_ready", "1 when this part of readiness is well, as /health/ready says it", ["part"])
parked_now = Gauge("gongdan_parked_events", "Events parked now")
parked_long = Gauge("gongdan_parked_long_events", "Events parked for over 10 minutes")
dead_letters_open = Gauge("gongdan_dead_letters_open", "Dead letters that wait for a person")
database_errors = Counter("gongdan_database_errors_total", "Errors of PostgreSQL by SQLSTATE", ["state"])
calendar_days = Gauge("gongdan_calendar_days_left", "Days from today to the end of the published working calendar")
consumer_paused = Gauge("gongdan_consumer_paused", "Pauses of this service's reading that a person ordered")
consumer_stopped = Gauge("gongdan_consumer_stopped", "1 when reading stopped after too many dead letters in a row")
consumer_lag = Gauge("gongdan_consumer_lag", "Records not yet read", ["topic"])
log_changes = Counter("gongdan_log_changes_total", "Times that the log was found to be another one")
broker_reachable = Gauge("gongdan_broker_reachable", "1 when the broker answered lately")
audit_seals = Counter("gongdan_audit_seals_total", "Seals put on the audit trail")
audit_chain_broken = Gauge("gongdan_audit_chain_broken", "1 when the last check found the audit trail altered")
audit_unsealed_seconds = Gauge("gongdan_audit_unsealed_seconds", "Age of the oldest row of the audit trail not sealed")
personal_old_key_rows = Gauge("gongdan_personal_old_key_rows", "Tickets whose personal data an old key sealed")
# Not 0, which would say that the old key may go, before the one process that counts has counted.
personal_old_key_rows.set(math.nan)
clocks_fired = Counter("gongdan_clocks_fired_total", "Clock moments fired", ["moment"])
clock_lateness_seconds = Histogram(
    "gongdan_clock_lateness_seconds",
    "Real seconds from a due moment to its event",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 60),
)
clock_overdue_seconds = Gauge("gongdan_clock_overdue_seconds", "How late the earliest open moment is, real seconds")
sweep_delay_seconds = Gauge("gongdan_sweep_delay_seconds", "Real seconds since the last finished sweep")
