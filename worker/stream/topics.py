"""The topics a worker needs: which they are, which are missing, and how they are made."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NoError, TopicAlreadyExistsError, for_code

from worker.settings import Settings
from worker.stream.connection import client_options
from worker.stream.errors import StreamError

VISIBLE_SECONDS = 15.0
VISIBLE_RETRY_SECONDS = 0.05
DEAD_LETTER_RETENTION_MS = 30 * 24 * 60 * 60 * 1000  # time for a person to look at them, and to replay them


class MissingTopics(StreamError):
    """Topics that the worker reads or writes do not exist."""

    def __init__(self, names: Sequence[str]) -> None:
        subject = f"topic {names[0]} does" if len(names) == 1 else f"topics {', '.join(names)} do"
        super().__init__(f"{subject} not exist, or may not be seen by this user; make them with `koner topics create`")
        self.names = tuple(names)


@dataclass(frozen=True, slots=True)
class TopicOutcome:
    """What became of a topic that was asked for."""

    topic: str
    outcome: Literal["created", "existing"]
    partitions: int


def required(settings: Settings) -> list[str]:
    """Return the names of the topics the worker reads and writes, each once: inputs, outputs, dead letters."""
    inputs = [source.topic for source in settings.sources]
    return [*inputs, *_written(settings)]


async def missing(settings: Settings) -> list[str]:
    """Return the required topics that the cluster does not have, or does not show to this user, in order.

    Raises `aiokafka.errors.KafkaError` where the brokers do not answer or refuse the credentials.
    """
    async with _admin(settings) as admin:
        existing = await _partitions(admin)
    return [name for name in required(settings) if name not in existing]


async def create(settings: Settings, *, partitions: int, replication: int) -> list[TopicOutcome]:
    """Make the required topics that are missing; existing ones stay as they are, whatever their partitions.

    `replication` is the number of copies of each partition. Topics that are written keep the timestamps of their
    records; dead letters are kept for 30 days; all else is the cluster's default. It is safe to call this again, and
    from several places at once. When it returns, the cluster tells clients of all of them.

    Raises `StreamError` where the cluster refuses a topic (the others are made), `aiokafka.errors.KafkaError` where
    the brokers do not answer or refuse the credentials.
    """
    if partitions < 1 or replication < 1:
        raise StreamError(f"{partitions} partitions with {replication} replicas: a topic has at least one of each")
    async with _admin(settings) as admin:
        existing = await _partitions(admin)
        new = [
            NewTopic(name, partitions, replication, topic_configs=_configuration(settings, name))
            for name in required(settings)
            if name not in existing
        ]
        errors = _errors(await admin.create_topics(new)) if new else {}
        reasons = [f"topic {name} was not created: {why}" for name, why in errors.items() if why is not None]
        if reasons:
            raise StreamError("; ".join(reasons))
        created = {topic.name for topic in new} - errors.keys()
        existing = await _wait_for(admin, required(settings))
    return [
        TopicOutcome(name, "created" if name in created else "existing", existing[name]) for name in required(settings)
    ]


def _written(settings: Settings) -> list[str]:
    return list(dict.fromkeys([*(source.output for source in settings.sources), settings.dead_letter_topic]))


def _configuration(settings: Settings, name: str) -> dict[str, str]:
    configuration: dict[str, str] = {}
    if name in _written(settings):
        configuration["message.timestamp.type"] = "CreateTime"
    if name == settings.dead_letter_topic:
        configuration["retention.ms"] = str(DEAD_LETTER_RETENTION_MS)
    return configuration


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def _partitions(admin: Any) -> dict[str, int]:
    """Return the number of partitions of every topic there is.

    All are asked for, not those of interest: many clusters create a topic that a client asks for by name.
    """
    topics = await admin.describe_topics()
    return {topic["topic"]: len(topic["partitions"]) for topic in topics if topic["error_code"] == 0}


async def _wait_for(admin: Any, names: Sequence[str]) -> dict[str, int]:
    """Return `_partitions` once all of `names` are among them: a new topic takes a moment to reach the brokers."""
    try:
        async with asyncio.timeout(VISIBLE_SECONDS):
            while True:
                existing = await _partitions(admin)
                if existing.keys() >= set(names):
                    return existing
                await asyncio.sleep(VISIBLE_RETRY_SECONDS)
    except TimeoutError:
        raise StreamError(
            f"topics {', '.join(names)} were created, but the cluster does not show all of them to this user after "
            f"{VISIBLE_SECONDS:.0f} s; check its right to describe them"
        ) from None


def _errors(response: Any) -> dict[str, str | None]:
    """Return the topics a cluster did not create, with its reason, or None where the topic is there already."""
    errors: dict[str, str | None] = {}
    for topic in response.to_object()["topic_errors"]:
        kind = for_code(topic["error_code"])
        if kind is TopicAlreadyExistsError:
            errors[topic["topic"]] = None
        elif kind is not NoError:
            errors[topic["topic"]] = topic.get("error_message") or kind.description or kind.__name__
    return errors
