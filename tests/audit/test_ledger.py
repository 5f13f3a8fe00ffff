"""The ledger finds every kind of fault, and nothing in what is sound."""

from collections import Counter
from dataclasses import replace

import orjson
import pytest
from audit_records import DEAD, OUTPUT, SOURCE, Rec, check, dead, enriched, faults, raw, tombstone
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.audit.report import Example
from worker.records import Origin

TRACE = (("trace", b"1"), ("trace", None))


def test_a_sound_stream_is_clean():
    records = [
        raw(0, key=b"a", headers=TRACE),
        raw(1, b'{"text": 7}', key=b"a"),
        tombstone(4, key=b"a"),  # offsets may have gaps
        raw(5, b"\xff\xfe"),
    ]
    outputs = [enriched(records[0], 10), dead(records[1], 0), enriched(records[2], 12), dead(records[3], 1)]
    report = check(records, outputs)
    assert report.clean
    assert faults(report) == {}
    assert report.counts["raw"] == 4
    assert (report.counts["enriched"], report.counts["dead_letters"], report.counts["tombstones"]) == (1, 2, 1)


def test_a_record_without_an_output_is_missing():
    records = [raw(0), raw(1), raw(2)]
    report = check(records, [enriched(records[0], 0), enriched(records[2], 1)])
    assert faults(report) == {"missing": 1}
    assert not report.clean
    assert report.partitions[0].missing.examples == (Example(Origin(SOURCE, 0, 1), None),)


def test_what_the_group_has_not_committed_is_pending_and_no_fault():
    records = [raw(0), raw(1), tombstone(2)]
    report = check(records, [enriched(records[0], 0)], due=1)
    assert report.clean
    assert report.counts["pending"] == 2


def test_a_second_output_is_a_double():
    record = raw(0)
    outputs = [enriched(record, 0), enriched(record, 1), dead(record, 0)]
    report = check([record], outputs)
    assert faults(report) == {"double": 2}
    assert not report.clean
    assert report.partitions[0].double.examples[0] == Example(Origin(SOURCE, 0, 0), Origin(OUTPUT, 0, 1))


def test_doubles_may_be_allowed():
    record = raw(0)
    report = check([record], [enriched(record, 0), enriched(record, 1)], allow_doubles=True)
    assert report.clean
    assert report.counts["double"] == 1


def test_records_of_a_key_that_change_places_are_out_of_order():
    records = [raw(offset, key=b"a") for offset in range(4)]
    order = [0, 3, 1, 2]
    report = check(records, [enriched(records[number], place) for place, number in enumerate(order)])
    assert faults(report) == {"out_of_order": 2}
    assert {example.source.offset for example in report.partitions[0].out_of_order.examples} == {1, 2}


def test_order_is_held_per_key_and_per_output_partition():
    records = [raw(0, key=b"a"), raw(1, key=b"b"), raw(2, key=b"a")]
    outputs = [enriched(records[1], 0), enriched(records[0], 1), enriched(records[2], 0, partition=1)]
    assert check(records, outputs).clean


def test_a_redelivery_after_the_first_appearance_is_not_out_of_order():
    records = [raw(offset, key=b"a") for offset in range(2)]
    outputs = [enriched(records[number], place) for place, number in enumerate([0, 1, 0, 1])]
    assert check(records, outputs, allow_doubles=True).clean


def test_a_tombstone_that_leaves_before_an_earlier_record_is_out_of_order():
    records = [raw(0, key=b"a"), tombstone(1, key=b"a")]
    outputs = [enriched(records[1], 0), enriched(records[0], 1)]
    assert faults(check(records, outputs)) == {"out_of_order": 1}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"key": b"b"}, "key"),
        ({"key": b""}, "key"),
        ({"headers": ()}, "headers"),
        ({"headers": TRACE[::-1]}, "headers"),
        ({"timestamp": 1_001}, "timestamp"),
        ({"members": {"review_id": "other"}}, "value"),
        ({"members": {"extra": None}}, "value"),
    ],
)
def test_what_must_be_carried_over_and_is_not_is_a_change(changes: dict, what: str):
    record = raw(0, key=None, headers=TRACE)
    report = check([record], [enriched(record, 0, **changes)])
    assert faults(report) == {"changed": 1}
    assert report.partitions[0].changed.examples[0].what == what
    assert not report.clean


@pytest.mark.parametrize(
    "written",
    [
        b'{"review_id":"0","text":"x","n":1.0}',
        b'{"text":"x","review_id":"0","n":1.10}',
        b'{"review_id":"0","text":"x","n":1.10,"n":1.10}',
        b'{"review_id":"0","text":"x","n":"1.10"}',
        b'{"review_id":"0","text":"x"}',
        b'{"review_id":"0","text":"x","n":[1.10]}',
    ],
)
def test_digits_order_nesting_and_repeats_of_members_count(written: bytes):
    record = raw(0, b'{"review_id": "0", "text": "x", "n": 1.10}')
    source = b'"entities":[],"enrichment":{"source":{"topic":"reviews.raw","partition":0,"offset":0}}}'
    good = Rec(OUTPUT, 0, 0, record.value[:-1] + b"," + source)
    assert check([record], [good]).clean
    assert faults(check([record], [replace(good, value=written[:-1] + b"," + source)])) == {"changed": 1}


def test_a_record_that_was_enriched_before_is_compared_without_what_koner_added():
    record = raw(0, orjson.dumps({"entities": [1], "text": "이병헌", "enrichment": None, "z": 1}))
    outputs = enriched(record, 0)
    assert check([record], [outputs]).clean


@pytest.mark.parametrize(
    "changes",
    [
        {"value": b"{}"},
        {"key": b"b"},
        {"timestamp": 7},
        {"headers": dead(raw(0, b"[]", headers=()), 0).headers},
        {"headers": (("more", b""), *dead(raw(0, b"[]", headers=TRACE), 0).headers)},
        {"headers": (*dead(raw(0, b"[]", headers=TRACE), 0).headers, ("more", b""))},
        {"headers": tuple(h for h in dead(raw(0, b"[]", headers=TRACE), 0).headers if h[0] != "koner-detail")},
    ],
)
def test_a_dead_letter_that_is_not_the_raw_record_is_a_change(changes: dict):
    record = raw(0, b"[]", headers=TRACE)
    assert check([record], [dead(record, 0)]).clean
    assert faults(check([record], [dead(record, 0, **changes)])) == {"changed": 1}


def test_a_dead_letter_of_a_former_dead_letter_counts_its_last_headers():
    record = raw(7, b"[]", headers=dead(raw(3, b"[]"), 0).headers)
    assert check([record], [dead(record, 0)]).clean


def test_a_dead_letter_of_a_replay_into_another_topic_is_not_the_workers():
    records = [raw(0, b"[]"), raw(1)]
    replayed = [dead(record, 1 + at) for at, record in enumerate(records)]
    replayed = [replace(letter, headers=(*letter.headers, ("koner-replay", b"koner-replay-1"))) for letter in replayed]
    report = check(records, [dead(records[0], 0), *replayed])
    assert faults(report) == {"missing": 1}
    assert (report.counts["dead_letters"], report.of_replays) == (1, 2)


def test_a_raw_record_that_is_such_a_dead_letter_is_the_workers_when_it_is_refused():
    record = raw(7, b"[]", headers=(*dead(raw(3, b"[]"), 0).headers, ("koner-replay", b"koner-replay-1")))
    report = check([record], [dead(record, 0)])
    assert report.clean
    assert report.counts["dead_letters"] == 1


@pytest.mark.parametrize(
    "entity",
    [
        {"end": 2},
        {"start": 1},
        {"text": "이병"},
        {"start": 0, "end": 0, "text": ""},
        {"start": 4, "end": 7, "text": "최고"},
        {"start": -6, "end": -3},
        {"score": 1.01},
        {"score": None},
        {"field": "title"},
        {"start": 0.0},
        {"start": True},
    ],
)
def test_a_span_that_does_not_say_what_stands_there_is_inexact(entity: dict):
    record = raw(0)
    good = {"field": "text", "start": 0, "end": 3, "text": "이병헌", "score": 0.5}
    assert check([record], [enriched(record, 0, members={"entities": [good]})]).clean
    report = check([record], [enriched(record, 0, members={"entities": [{**good, **entity}]})])
    assert faults(report) == {"inexact": 1}


@pytest.mark.parametrize("entities", [None, "x", [1], [[0, 3], [2, 5]], [[3, 5], [0, 3]]])
def test_entities_are_sorted_and_apart(entities):
    record = raw(0, orjson.dumps({"text": "abcdef"}))
    if entities and isinstance(entities[0], list):
        entities = [
            {"field": "text", "start": start, "end": end, "text": "abcdef"[start:end], "score": 1}
            for start, end in entities
        ]
    assert faults(check([record], [enriched(record, 0, members={"entities": entities})])) == {"inexact": 1}


def test_spans_count_code_points():
    record = raw(0, '{"text": "😀 \\ud83d\\ude00 이병헌"}'.encode())
    entity = {"field": "text", "start": 4, "end": 7, "text": "이병헌", "score": 1}
    assert check([record], [enriched(record, 0, members={"entities": [entity]})]).clean


def test_a_tombstone_that_is_not_passed_on_is_missing_and_one_too_many_is_double():
    records = [tombstone(0, key=b"a"), tombstone(1, key=b"b"), tombstone(2, key=b"b", timestamp=5)]
    outputs = [enriched(record, place) for place, record in enumerate([records[0], records[0], records[1]])]
    report = check(records, outputs)
    assert faults(report) == {"double": 1, "missing": 1}
    assert report.partitions[0].missing.examples[0].source == Origin(SOURCE, 0, 2)


def test_tombstones_alike_are_matched_one_by_one_and_the_one_not_due_may_wait():
    records = [tombstone(0, key=b"a"), tombstone(1, key=b"a")]
    assert faults(check(records, [enriched(records[0], 0)])) == {"missing": 1}
    report = check(records, [enriched(records[0], 0)], due=1)
    assert report.clean
    assert report.counts["pending"] == 1


def test_outputs_whose_record_is_gone_are_counted_apart():
    records = [raw(5), raw(7)]
    outputs = [
        enriched(raw(4), 0),
        dead(raw(3), 0),
        enriched(records[0], 1),
        enriched(raw(6), 2),
        enriched(records[1], 3),
        enriched(tombstone(2), 4),
    ]
    report = check(records, outputs, first=5)
    assert report.clean
    assert (report.counts["gone"], report.counts["absent"], report.stray_tombstones) == (2, 1, 1)


def test_what_lies_before_the_first_output_that_retention_left_is_not_missing():
    records = [raw(offset, key=b"a", timestamp=9_000 - offset) for offset in range(5)]  # Kafka deletes as appended
    outputs = [enriched(records[2], 2), enriched(records[4], 4)]
    report = check(records, outputs, trimmed={(OUTPUT, 0): 2})
    assert faults(report) == {"missing": 1}  # the output of 3 would lie behind that of 2
    assert (report.counts["trimmed"], report.counts["unsure"]) == (2, 0)
    assert report.as_json()["trimmed_outputs"] == {"enriched[0]": 2}
    assert faults(check(records, outputs)) == {"missing": 3}
    assert faults(check(records, outputs, trimmed={("other", 0): 2})) == {"missing": 3}


def test_a_partition_with_a_backlog_says_nothing_of_what_retention_deleted_of_another_one():
    recent = [raw(offset, key=b"a", timestamp=9_000 + offset) for offset in range(5)]
    backlog = [raw(offset, key=b"a", timestamp=1_000 + offset, partition=1) for offset in range(2)]
    outputs = [enriched(record, 4 + at) for at, record in enumerate([*backlog, recent[4]])]
    report = check(recent + backlog, outputs, trimmed={(OUTPUT, 0): 4})
    assert report.clean
    assert (report.counts["trimmed"], report.counts["unsure"]) == (4, 0)


MARKER = Rec(DEAD, 0, 9, b"{}", headers=(("koner-marker", b"replayed"),), timestamp=9_999)


@pytest.mark.parametrize("left", [[], [MARKER]])
def test_where_retention_left_nothing_of_a_partition_what_is_missing_cannot_be_told(left: list[Rec]):
    records = [raw(offset, key=b"a") for offset in range(5)]
    outputs = [enriched(records[2], 0), enriched(records[3], 1)]
    report = check(records, [*left, *outputs], trimmed={(DEAD, 0): 9})
    assert report.clean
    assert (report.counts["trimmed"], report.counts["unsure"]) == (3, 3)
    report = check(records, [*left, *outputs], trimmed={(DEAD, 0): 9, (OUTPUT, 0): 1})
    assert (report.counts["trimmed"], report.counts["unsure"]) == (3, 2)


def test_no_more_records_are_trimmed_than_offsets_were_deleted():
    records = [raw(offset, key=b"a") for offset in range(9)]
    report = check(records, [enriched(records[8], 0)], trimmed={(DEAD, 0): 3})
    assert faults(report) == {"missing": 5}
    assert (report.counts["trimmed"], report.counts["unsure"]) == (3, 3)
    report = check(records, [enriched(records[4], 2), dead(records[8], 1)], trimmed={(OUTPUT, 0): 2, (DEAD, 0): 1})
    assert faults(report) == {"missing": 4}  # one of 0 to 3, and 5 to 7
    assert report.counts["trimmed"] == 3


def test_of_records_without_a_key_the_partitions_that_never_held_any_do_not_count():
    records = [raw(offset) for offset in range(4)]
    outputs = [enriched(records[1], 5), enriched(records[3], 6)]
    trimmed = {(OUTPUT, 0): 5, (OUTPUT, 1): 7}
    report = check(records, outputs, trimmed=trimmed)
    assert faults(report) == {"missing": 1}
    assert (report.counts["trimmed"], report.counts["unsure"]) == (1, 0)
    assert check(records, [], trimmed=trimmed).counts["unsure"] == 4


keys = st.sampled_from([None, b"", b"a", b"b"])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_retention_deletes_of_a_sound_stream_nothing_is_missing(data: st.DataObject):
    made = data.draw(st.lists(st.tuples(st.integers(0, 2), st.booleans(), keys), max_size=20), label="from, dead?, key")
    records: list[Rec] = []
    places: dict[tuple[str, int], list[Rec]] = {(topic, number): [] for topic in (OUTPUT, DEAD) for number in (0, 1)}
    for partition, is_dead, key in made:
        offset = sum(record.partition == partition for record in records)
        records.append(raw(offset, key=key, partition=partition))
        make, topic = (dead, DEAD) if is_dead else (enriched, OUTPUT)
        lying = places[topic, partition % 2 if key is None else key == b"b"]
        lying.append(make(records[-1], len(lying)))
    left, cut = [], {}
    for (topic, number), lying in places.items():
        first = data.draw(st.integers(0, len(lying)))
        left += [replace(output, partition=number) for output in lying[first:]]
        if first:
            cut[topic, number] = first
    report = check(records, left, trimmed=cut)
    assert report.clean
    assert report.counts["trimmed"] == len(records) - len(left)


def test_an_output_of_a_record_that_was_never_there_is_found():
    record = raw(0)
    report = check([record], [enriched(record, 0), enriched(raw(1), 1)])
    assert faults(report) == {"unknown": 1}
    assert faults(check([record], [enriched(record, 0), enriched(raw(0, partition=9), 1)])) == {"unreadable": 1}


@pytest.mark.parametrize(
    "output",
    [
        Rec(OUTPUT, 0, 0, b"{"),
        Rec(OUTPUT, 0, 0, b'{"text":"x","entities":[]}'),
        Rec(OUTPUT, 0, 0, b'{"enrichment":{"source":{"topic":"reviews.raw","partition":"0","offset":0}}}'),
        Rec(DEAD, 0, 0, b"x"),
        Rec(DEAD, 0, 0, b"x", headers=(("koner-reason", b"schema"),)),
        Rec(DEAD, 0, 0, b"x", headers=(("koner-reason", b"schema"), ("koner-topic", SOURCE.encode()))),
    ],
)
def test_an_output_that_does_not_say_what_it_is_of_is_found(output: Rec):
    report = check([], [output])
    assert faults(report) == {"unreadable": 1}
    assert not report.clean


def test_outputs_of_other_sources_are_left_alone():
    other = raw(0, topic="others.raw")
    report = check([], [enriched(other, 0), dead(other, 0)])
    assert report.clean
    assert report.foreign == 2


def test_a_report_holds_no_word_of_a_record():
    record = raw(0, orjson.dumps({"text": "비밀"}), key="비밀".encode())
    report = check([record], [enriched(record, 0, key=None, members={"text": "다른"})])
    told = orjson.dumps(report.as_json()).decode()
    assert "비밀" not in told
    assert orjson.loads(told)["partitions"][0]["faults"]["changed"]["count"] == 2
    assert not orjson.loads(told)["clean"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_counts_agree_with_a_simple_model(data: st.DataObject):
    kinds = data.draw(st.lists(st.tuples(st.booleans(), keys), max_size=10), label="dead letter?, key")
    records = [raw(offset, b"[]" if is_dead else None, key=key) for offset, (is_dead, key) in enumerate(kinds)]
    number = st.integers(0, len(records) - 1)
    sent = data.draw(st.lists(st.tuples(number, st.integers(0, 1)), max_size=20)) if records else []
    due = data.draw(st.integers(0, len(records)))
    outputs, places = [], Counter()
    for which, partition in sent:
        record = records[which]
        make, topic = (dead, DEAD) if kinds[which][0] else (enriched, OUTPUT)
        outputs.append(make(record, places[topic, partition], partition=partition))
        places[topic, partition] += 1

    appearances = Counter(which for which, _ in sent)
    first_seen: dict[int, tuple] = {}
    latest: dict[tuple, int] = {}
    late = 0
    for which, partition in sent:
        if which in first_seen:
            continue
        first_seen[which] = (kinds[which][0], partition)
        line = (kinds[which][0], partition, kinds[which][1])
        late += which < latest.get(line, -1)
        latest[line] = max(which, latest.get(line, -1))
    expected = {
        "missing": sum(not appearances[which] and which < due for which in range(len(records))),
        "double": sum(count - 1 for count in appearances.values()),
        "out_of_order": late,
    }
    report = check(records, outputs, due=due)
    assert faults(report) == {name: count for name, count in expected.items() if count}
    assert report.counts["pending"] == sum(not appearances[which] and which >= due for which in range(len(records)))
