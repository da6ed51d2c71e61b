"""What operators do to a running service: look, redrive, discard, replay, pause, rebuild. `shared/http/operations.py`
offers it over HTTP, `deploy/console` on the command line. Whatever changes something is audited in its transaction."""
