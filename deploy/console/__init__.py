"""The operators' console: `python -m deploy.console`, a thin client over the `/v1/ops` routes of the services."""
