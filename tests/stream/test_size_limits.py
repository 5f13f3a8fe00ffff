import pytest

from worker.stream.delivery import BatchRefused, SizeLimits, TooLarge
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


def test_a_record_that_is_sent_although_it_is_known_to_be_too_large_ends_the_stream():
    limits = SizeLimits()
    limits.learn(TooLarge("enriched", 1, 2_000), "dead-letters")
    limits.learn(TooLarge("enriched", 1, 1_999), "dead-letters")  # the limit was still too high: others may help
    with pytest.raises(StreamError, match=r"enriched: refuses a tombstone of 1999 bytes.*max\.message\.bytes"):
        limits.learn(TooLarge("enriched", 1, 1_999), "dead-letters")


def test_a_batch_that_was_refused_for_what_is_in_it_is_halved_too():
    limits = SizeLimits()
    told = limits.learn(BatchRefused("enriched", 300, 200_000, "InvalidTimestampError"), "dead-letters")
    assert limits.batch("enriched") == 100_000
    assert "300 records" in told
    assert "InvalidTimestampError" in told
