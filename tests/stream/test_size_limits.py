import pytest

from worker.stream.delivery import SizeLimits, TooLarge
from worker.stream.errors import StreamError


def test_a_batch_that_was_refused_says_nothing_of_its_records():
    limits = SizeLimits()
    limits.learn(TooLarge("enriched", 300, 200_000), "dead-letters")
    assert limits.batch("enriched") == 100_000
    assert limits.record("enriched") > 200_000


def test_batches_are_halved_until_one_passes_or_a_record_was_refused_alone():
    limits = SizeLimits()
    for size in (200_000, 100_000, 50_000):
        limits.learn(TooLarge("enriched", 2, size), "dead-letters")
    assert limits.batch("enriched") == 25_000
    limits.learn(TooLarge("enriched", 1, 24_000), "dead-letters")
    assert limits.record("enriched") == 23_999
    assert limits.record("other") > 24_000


def test_dead_letters_are_halved_too_and_one_alone_that_is_refused_ends_the_stream():
    limits = SizeLimits()
    limits.learn(TooLarge("dead-letters", 2, 4_000), "dead-letters")
    assert limits.batch("dead-letters") == 2_000
    with pytest.raises(StreamError, match=r"dead-letters: refuses a dead letter of 1500 bytes.*max\.message\.bytes"):
        limits.learn(TooLarge("dead-letters", 1, 1_500), "dead-letters")
