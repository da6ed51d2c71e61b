"""`python -m services.sla`: serve, or `migrate`."""

from services.sla.app import build
from services.sla.settings import Settings
from shared.command_line import main

if __name__ == "__main__":
    main("sla", Settings, build)
