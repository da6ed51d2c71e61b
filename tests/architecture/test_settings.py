"""The example environments are the settings, and the settings keep their promises."""

import base64
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.settings import FILE_SUFFIX, from_environment
from tests.architecture.env_examples import FOLDER, render
from tests.architecture.services import SERVICES, is_secret, prefix, required_settings, settings_model

KEY = base64.b64encode(bytes(32)).decode()


def given(service: str) -> dict[str, str]:
    """The variables that the example sets, with keys filled in."""
    lines = (FOLDER / f"{service}.env.example").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value or KEY for name, _, value in pairs}


@pytest.mark.parametrize("service", SERVICES)
def test_the_example_is_the_settings(service: str) -> None:
    text = (FOLDER / f"{service}.env.example").read_text(encoding="utf-8")
    assert text == render(service), "renew it with `python -m tests.architecture.env_examples`"


def test_there_is_an_example_for_each_service_and_no_other() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{service}.env.example" for service in SERVICES}


@pytest.mark.parametrize("service", SERVICES)
def test_the_example_is_enough_to_start(service: str) -> None:
    settings = from_environment(settings_model(service), given(service))
    assert settings.time_scale == 1.0


@pytest.mark.parametrize("service", SERVICES)
def test_a_setting_may_come_from_a_file(service: str, tmp_path: Path) -> None:
    variable = f"{prefix(service)}DATABASE_URL"
    secret = tmp_path / "url"
    secret.write_text("postgresql+asyncpg://from:file@127.0.0.1/x\n", encoding="utf-8")
    environment = {name: value for name, value in given(service).items() if name != variable}
    settings = from_environment(settings_model(service), {**environment, variable + FILE_SUFFIX: str(secret)})
    assert settings.database_url.get_secret_value() == "postgresql+asyncpg://from:file@127.0.0.1/x"


@pytest.mark.parametrize("service", SERVICES)
def test_a_secret_has_no_default_and_does_not_show(service: str) -> None:
    fields = settings_model(service).model_fields
    secrets = {name for name, field in fields.items() if is_secret(field)}
    assert "database_url" in secrets
    assert all(fields[name].default is None for name in secrets - set(required_settings(service)))
    assert {name for name in fields if name.endswith("_key")} <= secrets
    assert "change-me" not in repr(from_environment(settings_model(service), given(service)))


@pytest.mark.parametrize("service", SERVICES)
def test_a_missing_setting_is_named(service: str) -> None:
    with pytest.raises(ValidationError, match="kafka_bootstrap_servers"):
        from_environment(settings_model(service), {})


def test_the_services_have_ports_of_their_own() -> None:
    ports = [settings_model(service).model_fields["http_port"].default for service in SERVICES]
    assert ports == [8001, 8002, 8003, 8004]
