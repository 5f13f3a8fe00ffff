from hypothesis import given
from hypothesis import strategies as st

from worker.stream.checkpoint import Checkpoint

offsets_with_gaps = st.lists(st.integers(1, 5), min_size=1, max_size=40).map(
    lambda steps: [sum(steps[: index + 1]) for index in range(len(steps))]
)


@given(offsets_with_gaps, st.data())
def test_outputs_leave_in_offset_order_and_commits_never_pass_an_unfinished_record(offsets, data):
    finishing = data.draw(st.permutations(offsets))
    checkpoint = Checkpoint()
    for offset in offsets:
        checkpoint.begin(offset)
    released, acknowledged = [], set()
    for offset in finishing:
        leaving = checkpoint.finish(offset, offset)
        released += leaving
        waiting = [each for each in released if each not in acknowledged]
        for each in data.draw(st.permutations(waiting)) if data.draw(st.booleans()) else []:
            checkpoint.acknowledge(each)
            acknowledged.add(each)
        done = [each for each in offsets if each in acknowledged]
        prefix = next((index for index, each in enumerate(offsets) if each not in acknowledged), len(offsets))
        assert checkpoint.position == (offsets[prefix - 1] + 1 if prefix else None)
        assert len(done) >= prefix
        assert checkpoint.unfinished == len(offsets) - prefix
    assert released == offsets


def test_nothing_is_to_commit_until_something_is_acknowledged():
    checkpoint = Checkpoint()
    checkpoint.begin(7)
    checkpoint.finish(7, "output")
    assert checkpoint.to_commit is None
    checkpoint.acknowledge(7)
    assert checkpoint.to_commit == 8
    checkpoint.committed = 8
    assert checkpoint.to_commit is None


def test_a_later_acknowledgement_waits_for_the_earlier_one():
    checkpoint = Checkpoint()
    for offset in (1, 2, 3):
        checkpoint.begin(offset)
        checkpoint.finish(offset, offset)
    checkpoint.acknowledge(3)
    checkpoint.acknowledge(2)
    assert (checkpoint.position, checkpoint.reached) == (None, 1)
    checkpoint.acknowledge(1)
    assert (checkpoint.position, checkpoint.reached) == (4, 4)


def test_markers_are_passed_over_only_when_nothing_is_unfinished():
    checkpoint = Checkpoint()
    checkpoint.begin(1)
    checkpoint.pass_over(5)
    assert checkpoint.position is None
    checkpoint.finish(1, None)
    checkpoint.acknowledge(1)
    checkpoint.pass_over(5)
    assert checkpoint.to_commit == 5
