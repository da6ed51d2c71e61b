"""Settings of dispatch, from `DISPATCH_…` variables."""

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from shared.contracts.signature import MalformedKey, read_keys
from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="DISPATCH_")

    http_port: int = 8003
    intake_url: str = Field(default="http://127.0.0.1:8001", description="where branches reach intake, for order links")
    public_url: str = Field(
        default="http://127.0.0.1:8003", description="where branches reach dispatch, for order links"
    )
    reply_key: SecretStr | None = Field(
        default=None,
        description="base64 of 32 bytes, from which the branches' reply keys are made; the new and the old one with a"
        " comma between them while they change. With it a command that its branch did not sign is refused",
    )

    @field_validator("reply_key")
    @classmethod
    def _can_be_read(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            read_keys(value.get_secret_value() if value else "")
        except MalformedKey as error:
            raise ValueError(str(error)) from None
        return value

    def reply_keys(self) -> tuple[bytes, ...]:
        return read_keys(self.reply_key.get_secret_value() if self.reply_key else "")
