"""Settings of sla, from `SLA_…` variables."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="SLA_")

    http_port: int = 8004
    sweep_batch: int = Field(default=500, ge=1, le=5000, description="clock moments looked at in one transaction")
    sweep_poll_seconds: float = Field(default=0.5, gt=0, description="longest sleep between two sweeps, real time")
    ready_sweep_seconds: float = Field(
        default=10.0, description="age of the last sweep at which readiness fails, real time"
    )
    ready_overdue_seconds: float = Field(
        default=30.0, description="lateness of a moment at which readiness fails, real time"
    )
    catch_up_seconds: float = Field(
        default=15.0, ge=0, description="how long overdue moments wait at the start for unread events, real time"
    )
