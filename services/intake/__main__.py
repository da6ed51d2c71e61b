"""`python -m services.intake`: serve, or `migrate`."""

from services.intake.app import build
from services.intake.settings import Settings
from shared.command_line import main

if __name__ == "__main__":
    main("intake", Settings, build)
