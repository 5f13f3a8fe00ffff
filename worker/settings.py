"""Every setting with its unit, default and environment name.

A setting is read from `KONER_` plus its name in capitals, then from the TOML file given with `--config`, then from the
default here: the environment wins. `[[sources]]` can be set in the file or, as JSON, in `KONER_SOURCES`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from worker.records import Kind

ENVIRONMENT_PREFIX = "KONER_"


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

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True)

    # Kafka
    bootstrap_servers: str = Field("127.0.0.1:9092", description="brokers, host:port separated by commas")
    group: str = Field("koner", min_length=1, description="consumer group")
    delivery: Literal["at_least_once"] = Field("at_least_once", description="the delivery guarantee")
    sources: tuple[Source, ...] = Field(DEFAULT_SOURCES, min_length=1, description="input topics ([[sources]])")
    dead_letter_topic: str = Field("enriched.dead-letters", min_length=1, description="topic of refused records")
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
    max_in_flight_bytes: int = Field(64 * 1024 * 1024, gt=0, description="bytes of raw records between fetch and ack")
    max_in_flight_records: int = Field(4_000, gt=0, description="records between fetch and acknowledgement")
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
    log_format: Literal["auto", "text", "json"] = Field("auto", description="text on a terminal, JSON lines elsewhere")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line logged")

    # Security
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: Path | None = Field(None, description="certificates of the authorities to trust, PEM")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None

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
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_username and sasl_password")
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

    Raises `SettingsError` with one line a wrong setting.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if config is not None and not config.is_file():
        raise SettingsError(f"{config}: no such file; --config takes a TOML file of settings")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        return FromFile(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(problem) for problem in error.errors(include_input=False))) from None
    except ValueError as error:  # not TOML, or not JSON where JSON is asked for
        raise SettingsError(f"{config or 'environment'}: {error}") from None


def _describe(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    if problem["type"] == "extra_forbidden":
        return f"{name}: no such setting"
    return f"{name} ({ENVIRONMENT_PREFIX}{name.split('.')[0].upper()}): {message}"
