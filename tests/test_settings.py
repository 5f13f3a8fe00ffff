import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.settings import DEFAULT_SOURCES, Settings, SettingsError, describe, load, unknown_variables

PROMISED = {
    "bootstrap_servers": "127.0.0.1:9092",
    "group": "koner",
    "delivery": "at_least_once",
    "model": "bundled",
    "taxonomy": "seed",
    "device": "auto",
    "engine": "auto",
    "batch_tokens": None,
    "max_in_flight_bytes": 64 * 1024 * 1024,
    "max_text_chars": 20_000,
    "web_port": 6066,
    "web_host": "127.0.0.1",
    "live_records": True,
    "grace_seconds": 25.0,
    "security_protocol": "PLAINTEXT",
    "ssl_cafile": None,
    "sasl_mechanism": "PLAIN",
    "sasl_username": None,
    "sasl_password": None,
    "log_format": "auto",
    "sources": DEFAULT_SOURCES,
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"KONER_{name.upper()}", raising=False)


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "koner.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "default"), PROMISED.items())
def test_defaults_are_as_promised(name: str, default: object) -> None:
    assert getattr(load(), name) == default


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_options_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _file(tmp_path, 'group = "file"\ntaxonomy = "movies"\nweb_port = 1\n')
    monkeypatch.setenv("KONER_GROUP", "environment")
    monkeypatch.setenv("KONER_WEB_PORT", "2")
    settings = load(config, web_port=3, engine=None)
    assert (settings.taxonomy, settings.group, settings.web_port, settings.engine) == (
        "movies",
        "environment",
        3,
        "auto",
    )


def test_sources_come_from_the_file_with_a_lane_by_their_kind(tmp_path: Path) -> None:
    config = _file(
        tmp_path,
        '[[sources]]\ntopic = "q"\nkind = "query"\noutput = "out"\n[[sources]]\ntopic = "r"\nkind = "review"\n',
    )
    first, second = load(config).sources
    assert (first.topic, first.output, first.lane) == ("q", "out", "short")
    assert (second.topic, second.output, second.lane) == ("r", "enriched", "bulk")


def test_sources_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONER_SOURCES", json.dumps([{"topic": "q", "kind": "query", "lane": "bulk"}]))
    (source,) = load().sources
    assert (source.topic, source.lane) == ("q", "bulk")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONER_WEB_PORT", "")
    assert load().web_port == 6066


@pytest.mark.parametrize("servers", ["[::1]:9092", "kafka.local.:9092", "a:1, b:2", "카프카.local:9092"])
def test_brokers_have_addresses_and_names_of_any_script(servers: str) -> None:
    assert load(bootstrap_servers=servers).bootstrap_servers == servers


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('bootstrap_server = "b:1"', "{}: bootstrap_server: no such setting; did you mean bootstrap_servers?"),
        ("zzz = 1", "{}: zzz: no such setting"),
        ('web_port = "many"', "{}: web_port: Input should be a valid integer"),
        ("web_port = 70000", "{}: web_port: Input should be less than or equal to 65535"),
        ('engine = "tensorflow"', "{}: engine: Input should be 'auto', 'torch' or 'onnxruntime'"),
        (
            '[[sources]]\ntopc = "q"\ntopic = "q"\nkind = "query"',
            "{}: sources.0.topc: no such setting; did you mean topic?",
        ),
        ('[[sources]]\ntopic = "q"\nkind = "tweet"', "{}: sources.0.kind: Input should be 'query' or 'review'"),
        ("sources = []", "{}: sources: Tuple should have at least 1 item"),
        ("web_port = = 1", "{}: not TOML: Invalid value (at line 1, column 12)"),
        ('bootstrap_servers = "kafka"', "bootstrap_servers: 'kafka' is no host:port"),
        ('bootstrap_servers = "a:1,kafka..local:1"', "bootstrap_servers: 'kafka..local:1' is no host:port"),
        (f'bootstrap_servers = "{"k" * 64}:1"', f"bootstrap_servers: '{'k' * 64}:1' is no host:port"),
        ('security_protocol = "SASL_SSL"', "security_protocol SASL_SSL needs sasl_username and sasl_password"),
        ('dead_letter_topic = "reviews.raw"', "sources: reviews.raw is both an input and an output topic"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str, told: str) -> None:
    config = _file(tmp_path, text)
    with pytest.raises(SettingsError) as error:
        load(config)
    assert str(error.value).startswith(told.format(config))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("KONER_WEB_PORT", "many", "KONER_WEB_PORT: Input should be a valid integer"),
        ("KONER_SOURCES", "q,r", "KONER_SOURCES: not JSON"),
        ("KONER_SOURCES", '[{"topic": "q"}]', "KONER_SOURCES.0.kind: Field required"),
    ],
)
def test_a_wrong_variable_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as error:
        load()
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_wrong_option_is_named_as_one() -> None:
    with pytest.raises(SettingsError, match=r"^--web-port: Input should be less than or equal to 65535$"):
        load(web_port=70_000)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"group: .*; .*web_port: "):
        load(_file(tmp_path, 'group = ""\nweb_port = -1'))


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="--config takes a TOML file of settings"):
        load(tmp_path / name)


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    settings = load(_file(tmp_path, 'sasl_password = "open sesame"'))
    assert settings.sasl_password is not None
    assert settings.sasl_password.get_secret_value() == "open sesame"
    assert "sesame" not in repr(settings) + str(settings) + json.dumps(describe(settings))


def test_a_misspelt_variable_is_suspected_and_those_of_kubernetes_are_not() -> None:
    environment = {
        "KONER_BOOTSTRAP_SERVER": "b:1",
        "KONER_GROUP": "g",
        "KONER_SERVICE_HOST": "10.0.0.1",
        "KONER_PORT_6066_TCP": "tcp://10.0.0.1:6066",
        "HOME": "/root",
    }
    assert unknown_variables(environment) == [
        "KONER_BOOTSTRAP_SERVER is no setting; did you mean KONER_BOOTSTRAP_SERVERS?"
    ]


def test_settings_do_not_change_after_they_were_read() -> None:
    with pytest.raises(ValidationError):
        load().web_port = 1


def test_description_holds_every_setting_with_default_and_value(tmp_path: Path) -> None:
    told = {one["name"]: one for one in describe(load(_file(tmp_path, "web_port = 1")))}
    assert list(told) == list(Settings.model_fields)
    assert (told["web_port"]["environment"], told["web_port"]["default"], told["web_port"]["value"]) == (
        "KONER_WEB_PORT",
        6066,
        1,
    )
    assert told["engine"]["choices"] == ["auto", "torch", "onnxruntime"]
    assert told["sources"]["value"][0]["topic"] == "queries.raw"
