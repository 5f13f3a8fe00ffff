"""A minute of random harm in each delivery mode; `python tests/kafka/storm.py soak` does it for longer."""

import pytest
from faults import MODES
from kafka.storm import soak

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("harmed"), pytest.mark.slow, pytest.mark.timeout(300)]

SECONDS = {"at_least_once": 30.0, "exactly_once": 40.0}  # of harm; starting, catching up and the audit come on top


@pytest.mark.parametrize("delivery", MODES)
async def test_random_harm_loses_nothing_and_doubles_only_what_at_least_once_may(harmed, tiny_model, delivery):
    result = await soak(harmed, seconds=SECONDS[delivery], seed=5, rate=100.0, delivery=delivery, model=str(tiny_model))
    assert result["clean"], result["audit"]
    assert result["audit"]["counts"]["raw"] == result["produced"] > 0
    assert sum(result["harm"].values()) >= 3
