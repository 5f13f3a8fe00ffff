"""Every setting with its unit, default and environment name.

A setting is read from `KONER_` plus its name in capitals, then from the TOML file given with `--config`, then from the
default here: the environment wins. `[[sources]]` can be set in the file or, as JSON, in `KONER_SOURCES`.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_core import to_jsonable_python
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as PydanticSettingsError

from worker.records import Kind

ENVIRONMENT_PREFIX = "KONER_"
FROM_FILES = ("sasl_password", "ssl_key_password")  # secrets that may stand in a file of their own
LONGEST_SECRET = 4096  # bytes; a file beyond this is no password, but taken for one by mistake


class SettingsError(Exception):
    """A setting has a value that cannot be used; the message names the setting, the value's place and the remedy."""


class Source(BaseModel):
    """One input topic: what its records are, where they go, and which lane they travel in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str = Field(min_length=1)
    kind: Kind
    output: str = Field(default="enriched", min_length=1)
    lane: Literal["short", "bulk"] = Field(description="short overtakes bulk; by default queries are short")

    @model_validator(mode="before")
    @classmethod
    def _choose_lane(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "lane" not in data:
            return {**data, "lane": "short" if data.get("kind") == "query" else "bulk"}
        return data


DEFAULT_SOURCES = (
    Source(topic="queries.raw", kind="query", lane="short"),
    Source(topic="reviews.raw", kind="review", lane="bulk"),
)


class Settings(BaseSettings):
    """The worker's settings. Sizes are in bytes, times in seconds, lengths of text in code points."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    # Kafka
    bootstrap_servers: str = Field("127.0.0.1:9092", description="brokers, host:port separated by commas")
    group: str = Field("koner", min_length=1, description="consumer group")
    delivery: Literal["at_least_once", "exactly_once"] = Field("at_least_once", description="the delivery guarantee")
    transaction_seconds: float = Field(
        0.2, ge=0, description="exactly once: time between the starts of a partition's transactions"
    )
    transaction_records: int = Field(5_000, gt=0, description="exactly once: most records of a transaction")
    transaction_timeout_seconds: float = Field(
        60.0, gt=0, description="exactly once: silence after which the broker aborts a transaction"
    )
    sources: tuple[Source, ...] = Field(DEFAULT_SOURCES, min_length=1, description="input topics ([[sources]])")
    dead_letter_topic: str = Field("enriched.dead-letters", min_length=1, description="topic of refused records")
    lost_offsets: Literal["stop", "continue"] = Field(
        "stop", description="what to do where the broker deleted records before they were read"
    )
    commit_interval_seconds: float = Field(1.0, gt=0, description="time between commits of offsets")
    group_instance_id: str | None = Field(
        None, min_length=1, description="this worker's own name in the group: a restart then moves no partitions"
    )
    session_timeout_seconds: float = Field(30.0, gt=0, description="silence after which the group drops this worker")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "lz4", description="compression of produced batches"
    )
    idempotence: bool = Field(True, description="the broker removes the producer's own duplicates on retry")
    max_publish_bytes: int = Field(1_000_000, gt=0, description="largest record the broker takes, in bytes")

    # Bounds
    max_in_flight_bytes: int = Field(
        64 * 1024 * 1024, gt=0, description="bytes of raw records between fetch and ack; lanes share it equally"
    )
    max_in_flight_records: int = Field(
        4_000, gt=0, description="records between fetch and acknowledgement; lanes share it equally"
    )
    max_text_chars: int = Field(20_000, gt=0, description="longest text accepted, in code points")
    grace_seconds: float = Field(25.0, ge=0, description="time to finish what is in flight at SIGTERM")
    drain_seconds: float = Field(5.0, ge=0, description="time to finish what is in flight when partitions move")
    engine_deadline_seconds: float = Field(120.0, gt=0, description="a batch that takes longer fails /health")

    # Model
    model: str = Field("bundled", min_length=1, description="bundled, a folder, or a hub name")
    taxonomy: str = Field("seed", min_length=1, description="seed, movies, klue, or a TOML file")
    engine: Literal["auto", "torch", "onnxruntime"] = Field("auto", description="what runs the model")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="torch's arithmetic")
    batch_tokens: int | None = Field(
        None, ge=16, description="tokens in a batch, padding counted; by default 512 on the CPU and 16384 on CUDA"
    )
    bulk_share: float = Field(0.25, gt=0, lt=1, description="share of tokens bulk keeps while short texts wait")
    threads: int | None = Field(None, ge=1, description="CPU threads of the engine; by default one a core")

    # Host
    web_host: str = Field("127.0.0.1", description="address the pages are served on")
    web_port: int = Field(6066, ge=0, le=65535, description="port of /, /metrics, /health and /ready")
    live_records: bool = Field(True, description="the page at / shows the last enriched records, people's words")
    tracing_endpoint: str | None = Field(
        None,
        min_length=1,
        description="where spans are sent by OTLP over HTTP, as http://127.0.0.1:4318/v1/traces; needs extra tracing",
    )
    log_format: Literal["auto", "text", "json"] = Field("auto", description="text on a terminal, JSON lines elsewhere")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line logged")

    # Security
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how brokers are spoken to"
    )
    ssl_cafile: Path | None = Field(
        None, description="certificates of the authorities to trust, PEM; by default the system's"
    )
    ssl_certfile: Path | None = Field(
        None, description="the worker's own certificate and its chain, PEM, for brokers that ask for one"
    )
    ssl_keyfile: Path | None = Field(None, description="private key of ssl_certfile, PEM; by default in that file too")
    ssl_key_password: SecretStr | None = Field(None, description="password of ssl_keyfile; never shown")
    ssl_key_password_file: Path | None = Field(None, description="file that holds ssl_key_password")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="how the worker shows who it is"
    )
    sasl_username: str | None = Field(None, description="user name for SASL")
    sasl_password: SecretStr | None = Field(None, description="password for SASL; never shown")
    sasl_password_file: Path | None = Field(None, description="file that holds sasl_password, as containers mount it")

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, data: Any) -> Any:
        """Fill in a secret from the file that `<secret>_file` names; the line break at its end is not part of it."""
        if not isinstance(data, Mapping):
            return data
        secrets = {name: data[f"{name}_file"] for name in FROM_FILES if data.get(f"{name}_file")}
        for name in secrets:
            if data.get(name):
                raise ValueError(f"{name} and {name}_file are both given; give one of them")
        return {**data, **{name: _read_secret(f"{name}_file", file) for name, file in secrets.items()}}

    @model_validator(mode="after")
    def _check_security(self) -> "Settings":
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise ValueError(
                f"security_protocol {self.security_protocol} needs sasl_username and sasl_password "
                "(or sasl_password_file)"
            )
        if self.ssl_certfile is None and (self.ssl_keyfile or self.ssl_key_password):
            raise ValueError("ssl_keyfile and ssl_key_password belong to a certificate; give ssl_certfile too")
        if "SSL" not in self.security_protocol and (self.ssl_cafile or self.ssl_certfile):
            raise ValueError(
                f"ssl_cafile and ssl_certfile do nothing with security_protocol {self.security_protocol}; "
                "set it to SSL or SASL_SSL"
            )
        return self

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        topics = [source.topic for source in self.sources]
        repeated = sorted({topic for topic in topics if topics.count(topic) > 1})
        if repeated:
            raise ValueError(f"sources: topic {', '.join(repeated)} is named more than once")
        read_back = sorted({source.output for source in self.sources if source.output in topics})
        if self.dead_letter_topic in topics:
            read_back.append(self.dead_letter_topic)
        if read_back:
            raise ValueError(f"sources: {', '.join(read_back)} is both an input and an output topic")
        return self

    @model_validator(mode="after")
    def _check_brokers(self) -> "Settings":
        for broker in self.bootstrap_servers.split(","):
            host, colon, port = broker.strip().rpartition(":")
            try:
                host.strip("[]").encode("idna")  # as a look-up does: fails where a part is empty or too long
            except UnicodeError:
                host = ""
            if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError(f"bootstrap_servers: {broker.strip()!r} is no host:port")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(config: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings: `overrides` (a command's options) win over the environment, that over the file `config`.

    Raises `SettingsError`, one line for all that is wrong.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    in_file = _read(config) if config is not None else {}

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    def describe(problem: Mapping[str, Any]) -> str:
        name, *inside = (str(part) for part in problem["loc"]) if problem["loc"] else ("",)
        message = str(problem["msg"]).removeprefix("Value error, ")
        if not name:
            return message
        variable = _variable(name)
        if name in given:
            place = "--" + name.replace("_", "-")
        elif name in in_file and variable not in os.environ:
            place = f"{config}: " + ".".join((name, *inside))
        else:
            place = ".".join((variable, *inside))
        if problem["type"] == "extra_forbidden":
            return f"{place}: no such setting{_meant((inside or [name])[-1], Source if inside else Settings)}"
        return f"{place}: {message}"

    try:
        return FromFile(**given)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise SettingsError("; ".join(describe(problem) for problem in problems)) from None
    except PydanticSettingsError:
        raise SettingsError(f"{_variable('sources')}: not JSON; give a list of objects as in [[sources]]") from None


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like a misspelt setting of ours.

    Others with our prefix pass: Kubernetes gives every container `KONER_SERVICE_HOST` and its like where a service is
    named koner.
    """
    return [
        f"{variable} is no setting{meant}"
        for variable in sorted(environment)
        if variable.startswith(ENVIRONMENT_PREFIX)
        and (name := variable.removeprefix(ENVIRONMENT_PREFIX).lower()) not in Settings.model_fields
        and (meant := _meant(name, Settings, variables=True))
    ]


def describe(settings: Settings) -> list[dict[str, Any]]:
    """Each setting in order, by name, environment name, description, choices, default and value; secrets are hidden."""
    values = settings.model_dump(mode="json")
    return [
        {
            "name": name,
            "environment": _variable(name),
            "description": field.description,
            "choices": list(_choices(field.annotation)),
            "default": to_jsonable_python(field.default),
            "value": values[name],
        }
        for name, field in Settings.model_fields.items()
    ]


def _read(config: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{config}: no such file; --config takes a TOML file of settings") from None
    except OSError as error:
        raise SettingsError(f"{config}: {error.strerror}; --config takes a TOML file of settings") from None
    except ValueError as error:
        raise SettingsError(f"{config}: not TOML: {error}") from None


def _read_secret(setting: str, file: Any) -> str:
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(LONGEST_SECRET + 1)
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no path"
        raise ValueError(f"{setting} {file}: {reason}; give a file that holds the password alone") from None
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        secret = ""
    if not secret or len(content) > LONGEST_SECRET or "\n" in secret:
        raise ValueError(f"{setting} {file}: not one line of UTF-8 text; give a file that holds the password alone")
    return secret


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def _meant(name: str, model: type[BaseModel], *, variables: bool = False) -> str:
    likely = difflib.get_close_matches(name, model.model_fields, n=1, cutoff=0.8)
    return f"; did you mean {_variable(likely[0]) if variables else likely[0]}?" if likely else ""


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()
