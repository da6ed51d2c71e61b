"""Settings of intake, from `INTAKE_…` variables."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="INTAKE_")

    http_port: int = 8001
    import_body_limit_bytes: int = Field(default=64 * 1024 * 1024, gt=0, description="of one import")
    data_key: SecretStr = Field(
        description="base64 of 32 bytes: encrypts personal data; several with commas: the first seals, all open"
    )
    index_key: SecretStr = Field(description="base64 of 32 bytes: makes the customer key")
    personal_retention_days: int = Field(
        default=1095, ge=0, description="days of business time after its end a ticket is erased; 0 keeps it"
    )
