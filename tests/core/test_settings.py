"""Settings: documented, typed, and silent about their values."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.core.settings import CHECKOUT, ConfigurationError, Settings, env_example, load_settings

URL = "postgresql://u:hunter2@h/db"


@pytest.fixture(autouse=True)
def _no_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / "absent")


def test_env_example_is_what_the_settings_say() -> None:
    assert (CHECKOUT / ".env.example").read_text() == env_example()


def test_every_variable_is_documented() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_env_example_can_be_used_as_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    filled = env_example().replace("DATABASE_URL=", f"DATABASE_URL={URL}").replace("\n# CELERY_", "\nCELERY_")
    (tmp_path / ".env").write_text(filled)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    assert load_settings().dsn.describe() == "h/db"
    assert load_settings().celery_metrics_port == Settings(database_url=URL).celery_metrics_port


def test_a_missing_url_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL is not set.*\./dev worker"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "redis://:hunter2@h/0"),
        ("DATABASE_URL", "postgresql://u:hunter2@h"),
        ("CELERY_METRICS_PORT", "hunter2"),
        ("CELERY_METRICS_PORT", "70000"),
        ("ENVIRONMENT", "hunter2"),
        ("LLM_PROVIDER", "hunter2"),
        ("MAINTENANCE_BATCH_SIZE", "0"),
    ],
)
def test_a_wrong_value_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value).startswith(name)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    assert "hunter2" not in f"{load_settings()!r} {load_settings().model_dump_json()}"
