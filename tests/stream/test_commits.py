"""Which offsets a session commits by itself."""

import pytest
from aiokafka import TopicPartition
from fake_engine import FakeEngine
from running import Stream

from worker.contracts import Contracts
from worker.observe.live import Recent
from worker.observe.metrics import Metrics
from worker.stream.delivery import SizeLimits
from worker.stream.session import Session
from worker.stream.work import Partition


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_markers_passed_over_are_not_committed_beside_a_transaction_of_the_partition(delivery):
    settings = Stream("127.0.0.1:9", options={"delivery": delivery}).settings()
    session = Session(settings, FakeEngine(), None, Contracts(), Metrics(), Recent(), limits=SizeLimits())
    commits = []

    async def commit(offsets):
        commits.append(offsets)

    session._source.consumer.commit = commit
    busy, idle = (Partition(TopicPartition(settings.sources[0].topic, n), settings.sources[0]) for n in range(2))
    session._source.partitions = {partition.topic_partition: partition for partition in (busy, idle)}
    for partition in (busy, idle):
        partition.checkpoint.begin(0)
        partition.checkpoint.finish(0, None)
        partition.checkpoint.acknowledge(0)
        partition.checkpoint.committed = 1
        partition.checkpoint.pass_over(2)
    busy.checkpoint.begin(2)  # on its way in a transaction that says 3
    await session._commit()
    beside = {} if delivery == "exactly_once" else {busy.topic_partition: 2}
    assert commits == [{idle.topic_partition: 2, **beside}]
    busy.checkpoint.finish(2, None)
    busy.checkpoint.acknowledge(2)
    busy.checkpoint.committed = 3
    busy.checkpoint.pass_over(4)
    await session._commit()
    assert commits[1:] == [{busy.topic_partition: 4}]
    session._source.partitions = {}  # there is no engine to forget them
    await session.close()
