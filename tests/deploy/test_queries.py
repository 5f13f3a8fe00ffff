"""The dashboard and the alerts ask only for what the worker exports."""

import json
import re
from collections.abc import Iterator

import pytest
from deployment import DEPLOY, PROCESS_METRICS, ROOT, SCRAPED_LABELS, exported_series, load_script, load_yaml

from worker.settings import Settings

check_queries = load_script(DEPLOY / "check_queries.py")
QUERIES = [*check_queries.dashboard_queries(), *check_queries.alert_queries()]
BOARD = json.loads(check_queries.DASHBOARD.read_text(encoding="utf-8"))
RULES = [rule for group in load_yaml(check_queries.ALERTS)["groups"] for rule in group["rules"]]


def selected(expression: str) -> Iterator[tuple[str, str]]:
    """The series an expression names, each with its matchers."""
    yield from re.findall(r"\b((?:koner|process|python)_\w+|up\b)\s*(\{[^}]*\})?", expression)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
def test_a_query_names_only_series_and_labels_that_exist(query) -> None:
    series = exported_series()
    grouped = {
        label for labels in re.findall(r"\bby\s*\(([^)]*)\)", query.expression) for label in re.split(r"[,\s]+", labels)
    }
    named = list(selected(query.expression))
    assert named, "the query asks for nothing of the worker's"
    for name, matchers in named:
        assert name in series or name in PROCESS_METRICS, name
        known = series.get(name, frozenset()) | SCRAPED_LABELS
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= known, (name, matchers)
        assert grouped - {""} <= known, (name, grouped)


def test_a_metric_that_is_misspelt_is_found() -> None:
    assert dict(selected('sum(rate(koner_record_in_total{source="a"}[1m]))')) == {
        "koner_record_in_total": '{source="a"}'
    }
    assert "koner_record_in_total" not in exported_series()


def test_every_metric_of_the_worker_is_on_the_dashboard() -> None:
    asked = {name for query in check_queries.dashboard_queries() for name, _ in selected(query.expression)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    unseen = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported_series()} - families
    assert unseen <= {"koner_in_bytes_total"}


def test_every_panel_has_a_unit_and_says_what_to_do() -> None:
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    assert len(panels) >= 25
    for panel in panels:
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"]), panel["title"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & own, panel["title"]
        cells |= own


def test_the_lines_at_the_bounds_are_the_settings_defaults() -> None:
    lines = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]
        for panel in BOARD["panels"]
        if "targets" in panel
    }
    assert lines["Records in flight"]["value"] == Settings.model_fields["max_in_flight_records"].default
    assert lines["Bytes in flight"]["value"] == Settings.model_fields["max_in_flight_bytes"].default


def test_the_operators_questions_have_a_panel() -> None:
    text = " ".join(query.expression for query in check_queries.dashboard_queries())
    for needed in (
        "sum by (source) (rate(koner_records_in_total",
        "sum by (topic) (koner_consumer_lag_records",
        "histogram_quantile(0.5, sum by (le) (rate(koner_end_to_end_seconds_bucket",
        "histogram_quantile(0.95, sum by (le) (rate(koner_end_to_end_seconds_bucket",
        "histogram_quantile(0.99, sum by (le) (rate(koner_end_to_end_seconds_bucket",
        "koner_engine_busy_seconds_total",
        "koner_batch_padding_tokens_total",
        "sum by (source, reason) (increase(koner_dead_letters_total",
        "sum by (type) (rate(koner_entities_total",
    ):
        assert needed in text, needed


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_waits_names_its_severity_and_leads_to_its_runbook(rule) -> None:
    assert re.fullmatch(r"[1-9]\d*[smh]", rule["for"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    path, anchor = rule["annotations"]["runbook"].split("#")
    assert anchor == rule["alert"].lower()
    headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert rule["alert"] in headings


def test_every_alert_is_tried_in_the_rule_tests() -> None:
    tested = {
        case["alertname"]
        for test in load_yaml(DEPLOY / "prometheus" / "alerts_test.yml")["tests"]
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert tested == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize(
    ("condition", "vectors"),
    [
        ("up == 0", ["up"]),
        ('absent(up{a="b"})', ['up{a="b"}']),
        ("(sum(a) > 0) or (b unless b offset 5m) > 0", ["sum(a)", "b"]),
        ("a > 1 and on (x) rate(b[5m]) == bool 0", ["a", "rate(b[5m])"]),
        ('a{b!="c > d or e"} <= b', ['a{b!="c > d or e"}', "b"]),
        ("x / (y > 0)", ["x / (y > 0)"]),
    ],
)
def test_the_vectors_behind_a_condition_are_taken_out(condition: str, vectors: list[str]) -> None:
    assert list(check_queries.vectors(condition)) == vectors
