"""What a broker's refusal to serve a user means in terms of the access rules (ACLs) that it lacks."""

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from worker.settings import Settings

NO_PERMISSION = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)


def lacking(error: KafkaError, settings: Settings) -> str:
    """One line for an error of `NO_PERMISSION`: which user lacks which right on which resource."""
    user = f"user {settings.sasl_username}" if settings.sasl_username else "this worker"
    match error:
        case GroupAuthorizationFailedError():
            right = f"Read on group {settings.group}"
        case TransactionalIdAuthorizationFailed():
            right = f"Write and Describe on transactional ids with the prefix koner-{settings.group}-"
        case TopicAuthorizationFailedError():
            right = _on_topics(_named(error), settings)
        case _:
            right = "IdempotentWrite on the cluster (or Write on a topic, from Kafka 2.8 on)"
    return f"{settings.bootstrap_servers}: {user} lacks {right}; grant it with kafka-acls"


def _on_topics(named: set[str], settings: Settings) -> str:
    inputs = [source.topic for source in settings.sources]
    outputs = list(dict.fromkeys([*(source.output for source in settings.sources), settings.dead_letter_topic]))
    known = named & {*inputs, *outputs}
    if known:
        inputs, outputs = [one for one in inputs if one in known], [one for one in outputs if one in known]
    rights = [f"Read on topic {topic}" for topic in inputs] + [f"Write on topic {topic}" for topic in outputs]
    return rights[0] if len(rights) == 1 else "one of these: " + ", ".join(rights)


def _named(error: KafkaError) -> set[str]:
    """The topics that an error names; aiokafka gives one, several, or none."""
    named: set[str] = set()
    for given in error.args:
        if isinstance(given, str):
            named.add(given)
        elif isinstance(given, list | tuple | set | frozenset):
            named.update(str(one) for one in given)
    return named
