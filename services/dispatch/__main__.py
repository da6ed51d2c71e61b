"""`python -m services.dispatch`: serve, or `migrate`."""

from services.dispatch.app import build
from services.dispatch.settings import Settings
from shared.command_line import main

if __name__ == "__main__":
    main("dispatch", Settings, build)
