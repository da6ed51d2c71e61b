"""Write deploy/env/<service>.env.example from the settings: `python -m tests.architecture.env_examples`."""

from pydantic_core import PydanticUndefined

from tests.architecture.services import PROJECT, SERVICES, is_secret, prefix, settings_model

FOLDER = PROJECT / "deploy" / "env"
EXAMPLES = {
    "database_url": "postgresql+asyncpg://gongdan_{service}:change-me@127.0.0.1:5432/gongdan_{service}",
    "kafka_bootstrap_servers": "127.0.0.1:9092",
    "keys_file": "/etc/gongdan/keys.json",
    "data_key": "",
    "index_key": "",
}


def render(service: str) -> str:
    """Every setting with its meaning; those with a default are commented out and show it."""
    start = prefix(service)
    lines = [
        f"# Settings of {service}. Any variable X may be given as X_FILE instead, naming a file that holds the value",
        f"# (not {start}KEYS_FILE, which is a file anyway). What is commented out shows the default.",
    ]
    for name, field in settings_model(service).model_fields.items():
        needed = field.default is PydanticUndefined
        notes = [field.description] if field.description else []
        if is_secret(field):
            notes.append("secret")
        lines += ["", *([f"# {'; '.join(notes)}"] if notes else [])]
        value = EXAMPLES[name].format(service=service) if needed else ("" if field.default is None else field.default)
        lines.append(f"{'' if needed else '#'}{start}{name.upper()}={value}")
    return "\n".join(lines) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for service in SERVICES:
        (FOLDER / f"{service}.env.example").write_text(render(service), encoding="utf-8")


if __name__ == "__main__":
    main()
