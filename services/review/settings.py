"""Settings of review, from `REVIEW_…` variables."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="REVIEW_")

    http_port: int = 8002
    claim_seconds: int = Field(
        default=900, ge=1, description="how long a claimed review is kept from others, real time"
    )
