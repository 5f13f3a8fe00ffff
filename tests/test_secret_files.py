"""Passwords that stand in files of their own, as containers mount them."""

import json
from pathlib import Path

import pytest

from worker.settings import FROM_FILES, Settings, SettingsError, describe, load


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"KONER_{name.upper()}", raising=False)


def _secret(settings: Settings, name: str) -> str | None:
    secret = getattr(settings, name)
    return secret.get_secret_value() if secret else None


@pytest.mark.parametrize("name", FROM_FILES)
@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"open sesame", "open sesame"),
        (b"open sesame\n", "open sesame"),
        (b"open sesame\r\n", "open sesame"),
        (b" open sesame ", " open sesame "),
        ("열려라 참깨\n".encode(), "열려라 참깨"),
    ],
)
def test_a_secret_is_read_from_its_file_without_the_line_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, secret: str
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    monkeypatch.setenv(f"KONER_{name.upper()}_FILE", str(file))
    settings = load(ssl_certfile="certificate.pem", security_protocol="SSL")
    assert _secret(settings, name) == secret
    shown = repr(settings) + str(settings) + json.dumps(describe(settings), ensure_ascii=False)
    assert secret.strip() not in shown


def test_a_secret_and_its_file_may_not_both_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "koner.toml"
    config.write_text(f'sasl_password_file = "{tmp_path / "secret"}"')
    monkeypatch.setenv("KONER_SASL_PASSWORD", "open sesame")
    with pytest.raises(SettingsError) as refused:
        load(config)
    assert str(refused.value) == "sasl_password and sasl_password_file are both given; give one of them"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file or directory"),
        (b"", "not one line of UTF-8 text"),
        (b"\n", "not one line of UTF-8 text"),
        (b"one\ntwo\n", "not one line of UTF-8 text"),
        (b"\xff\xfe", "not one line of UTF-8 text"),
        (b"x" * 5000, "not one line of UTF-8 text"),
    ],
)
def test_a_file_that_holds_no_secret_is_one_clear_line(tmp_path: Path, content: bytes | None, told: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        load(sasl_password_file=str(file))
    assert str(refused.value) == f"sasl_password_file {file}: {told}; give a file that holds the password alone"


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Is a directory; give a file that holds the password alone"):
        load(sasl_password_file=str(tmp_path))


def test_a_password_from_a_file_is_as_good_as_one_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("open sesame\n")
    settings = load(security_protocol="SASL_SSL", sasl_username="koner", sasl_password_file=str(file))
    assert _secret(settings, "sasl_password") == "open sesame"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"security_protocol": "SASL_SSL", "sasl_username": "koner"}, "needs sasl_username and sasl_password"),
        ({"security_protocol": "SSL", "ssl_keyfile": "k.pem"}, "give ssl_certfile too"),
        ({"ssl_cafile": "ca.pem"}, "do nothing with security_protocol PLAINTEXT; set it to SSL or SASL_SSL"),
        (
            {
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_username": "k",
                "sasl_password": "p",
                "ssl_certfile": "c.pem",
            },
            "do nothing with security_protocol SASL_PLAINTEXT",
        ),
    ],
)
def test_half_of_what_belongs_together_is_one_clear_line(given: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(**given)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
