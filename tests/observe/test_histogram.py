from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from worker.observe.histogram import BulkHistogram

BUCKETS = (0.1, 0.5, 2.5)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 0.1, 0.25, 0.5, 2.0, 2.5, 7.0])), max_size=50))
def test_it_is_exposed_as_the_library_exposes_its_own(observed):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = BulkHistogram("wait_seconds", "How long.", "source", buckets=BUCKETS, registry=ours)
    single = Histogram("wait_seconds", "How long.", ["source"], buckets=BUCKETS, registry=theirs)
    for label in dict(observed):
        bulk.observe(label, [value for name, value in observed if name == label])
    for label, value in observed:
        single.labels(label).observe(value)
    expected = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert generate_latest(ours).decode().splitlines() == expected
