"""Settings of dispatch, from `DISPATCH_…` variables."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="DISPATCH_")

    http_port: int = 8003
    intake_url: str = Field(default="http://127.0.0.1:8001", description="where branches reach intake, for order links")
    public_url: str = Field(
        default="http://127.0.0.1:8003", description="where branches reach dispatch, for order links"
    )
