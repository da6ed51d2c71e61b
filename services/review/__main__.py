"""`python -m services.review`: serve, or `migrate`."""

from services.review.app import build
from services.review.settings import Settings
from shared.command_line import main

if __name__ == "__main__":
    main("review", Settings, build)
