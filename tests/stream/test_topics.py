"""Which topics a worker needs, and how they are made: on the embedded broker and on a real Kafka."""

import asyncio
from collections.abc import Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from brokers import create_topics
from kafka_broker import KafkaBroker, free_ports

from worker.settings import Settings, Source
from worker.stream import topics
from worker.stream.errors import StreamError
from worker.stream.topics import MissingTopics, TopicOutcome


def settings_on(bootstrap_servers: str, unique: Callable[[str], str]) -> Settings:
    output = unique("enriched")
    return Settings(
        bootstrap_servers=bootstrap_servers,
        sources=(
            Source(topic=unique("queries"), kind="query", output=output, lane="short"),
            Source(topic=unique("reviews"), kind="review", output=output, lane="bulk"),
        ),
        dead_letter_topic=unique("dead-letters"),
    )


def test_inputs_outputs_and_dead_letters_are_required_once_each() -> None:
    assert topics.required(Settings()) == ["queries.raw", "reviews.raw", "enriched", "enriched.dead-letters"]


def test_an_output_that_is_also_for_dead_letters_is_required_once() -> None:
    assert topics.required(Settings(dead_letter_topic="enriched")) == ["queries.raw", "reviews.raw", "enriched"]


async def test_topics_are_missing_until_they_are_created(any_broker: str, unique: Callable[[str], str]) -> None:
    settings = settings_on(any_broker, unique)
    needed = topics.required(settings)
    assert await topics.missing(settings) == needed
    assert await topics.missing(settings) == needed, "asking for topics must not make them"
    outcomes = await topics.create(settings, partitions=3, replication=1)
    assert outcomes == [TopicOutcome(name, "created", 3) for name in needed]
    assert await topics.missing(settings) == []


async def test_creating_again_changes_nothing(any_broker: str, unique: Callable[[str], str]) -> None:
    settings = settings_on(any_broker, unique)
    first, *others = topics.required(settings)
    await create_topics(any_broker, first, partitions=5)
    outcomes = await topics.create(settings, partitions=2, replication=1)
    assert outcomes == [TopicOutcome(first, "existing", 5)] + [TopicOutcome(name, "created", 2) for name in others]
    again = await topics.create(settings, partitions=4, replication=1)
    assert again == [TopicOutcome(first, "existing", 5)] + [TopicOutcome(name, "existing", 2) for name in others]


async def test_two_that_create_at_once_both_succeed(any_broker: str, unique: Callable[[str], str]) -> None:
    settings = settings_on(any_broker, unique)
    both = await asyncio.gather(*(topics.create(settings, partitions=2, replication=1) for _ in range(2)))
    for outcomes in zip(*both, strict=True):
        assert {outcome.partitions for outcome in outcomes} == {2}
        assert sorted(outcome.outcome for outcome in outcomes) in (["created", "existing"], ["existing", "existing"])


async def test_dead_letters_stay_for_a_month_and_records_keep_their_time(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    settings = settings_on(kafka.bootstrap_servers, unique)
    await topics.create(settings, partitions=1, replication=1)
    dead_letters = await configuration(kafka.bootstrap_servers, settings.dead_letter_topic)
    assert dead_letters["retention.ms"] == str(30 * 24 * 3600 * 1000)
    assert dead_letters["message.timestamp.type"] == "CreateTime"
    output = await configuration(kafka.bootstrap_servers, settings.sources[0].output)
    assert output["message.timestamp.type"] == "CreateTime"


async def test_a_topic_the_cluster_refuses_is_named_with_the_reason(
    kafka: KafkaBroker, unique: Callable[[str], str]
) -> None:
    settings = settings_on(kafka.bootstrap_servers, unique)
    with pytest.raises(StreamError, match=r"topic queries\.\w+ was not created: .*replicat") as refused:
        await topics.create(settings, partitions=1, replication=3)
    assert "\n" not in str(refused.value)
    assert await topics.missing(settings) == topics.required(settings)


@pytest.mark.parametrize(("partitions", "replication"), [(0, 1), (1, 0)])
async def test_a_topic_needs_a_partition_and_a_replica(partitions: int, replication: int) -> None:
    with pytest.raises(StreamError, match="at least one of each"):
        await topics.create(Settings(), partitions=partitions, replication=replication)


async def test_a_broker_that_is_away_is_a_kafka_error() -> None:
    (port,) = free_ports(1)
    with pytest.raises(KafkaError):
        await topics.missing(Settings(bootstrap_servers=f"127.0.0.1:{port}"))


def test_missing_topics_are_named_with_the_command_that_makes_them() -> None:
    assert str(MissingTopics(["queries.raw", "enriched"])) == (
        "topics queries.raw, enriched do not exist, or may not be seen by this user; "
        "make them with `koner topics create`"
    )
    assert str(MissingTopics(["enriched"])).startswith("topic enriched does not exist")


async def configuration(bootstrap_servers: str, topic: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        error = None
        while error != 0:  # a moment passes before a new topic's configuration is told
            (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
            (error, _, _, _, entries) = response.resources[0]
    finally:
        await admin.close()
    return {entry[0]: entry[1] for entry in entries}
