"""The four services, built as in production but with settings that lead nowhere; nothing is opened at build."""

import base64
import importlib
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shared.service import ROLES, Service
from shared.settings import ServiceSettings

PROJECT = Path(__file__).parents[2]
SERVICES = ("intake", "review", "dispatch", "sla")


def settings_model(service: str) -> type[ServiceSettings]:
    model: type[ServiceSettings] = importlib.import_module(f"services.{service}.settings").Settings
    return model


def is_secret(field: FieldInfo) -> bool:
    return field.annotation is SecretStr or SecretStr in get_args(field.annotation)


def prefix(service: str) -> str:
    return settings_model(service).model_config["env_prefix"]


def required_settings(service: str) -> list[str]:
    fields = settings_model(service).model_fields
    return [name for name, field in fields.items() if field.default is PydanticUndefined]


def built(service: str, folder: Path, **more: Any) -> Service:
    """The service with all its routes. Unless the folder has a key file, nobody has a key."""
    keys = folder / "keys.json"
    if not keys.exists():
        keys.write_text("[]", encoding="utf-8")
    key = base64.b64encode(bytes(32)).decode()
    values: dict[str, Any] = {
        "database_url": "postgresql+asyncpg://nobody:nothing@127.0.0.1:1/nowhere",
        "kafka_bootstrap_servers": "127.0.0.1:1",
        "keys_file": keys,
        "data_key": key,
        "index_key": key,
    }
    needed = {name: values[name] for name in required_settings(service)} | more
    built: Service = importlib.import_module(f"services.{service}.app").build(settings_model(service)(**needed))
    built.compose(ROLES)
    return built
