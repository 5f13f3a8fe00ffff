"""Ask a Prometheus every query of the dashboard and of the alerts, and say which of them return nothing.

    python deploy/check_queries.py http://127.0.0.1:9090 [--at UNIX_TIME] [--interval 1m]

Prometheus must scrape a worker that has done some of everything: records, dead letters, commits. Of an alert, which is
silent on a good day, the vectors on either side of its comparisons are asked for. Exits 1 if a query fails or has no
number in its answer.
"""

import argparse
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "koner.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"

_TOKEN = re.compile(r"""
    "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*'        # strings
    | [(){}\[\]]                                 # what nests
    | \b(?:and|or|unless)\b(?:\s+(?:on|ignoring)\s*\([^)]*\))?
    | [=!<>]=(?:\s+bool\b)? | [<>](?:\s+bool\b)?
""", re.VERBOSE)  # fmt: skip
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
_LABEL_VALUES = re.compile(r"label_values\((.+),\s*(\w+)\)")


@dataclass(frozen=True, slots=True)
class Query:
    """An expression to ask, and where it stands."""

    place: str
    expression: str


def dashboard_queries(dashboard: Path = DASHBOARD, *, interval: str = "1m") -> Iterator[Query]:
    """Every query of the dashboard's panels, variables and annotations, its variables set to everything."""
    board = json.loads(dashboard.read_text(encoding="utf-8"))
    values = {"$__rate_interval": interval, "$__interval": interval, "$__range": "1h"}
    values |= {f"${variable['name']}": ".*" for variable in board["templating"]["list"]}

    def expand(expression: str) -> str:
        return re.sub(r"\$\w+", lambda found: values[found.group()], expression)

    for panel in board["panels"]:
        for target in panel.get("targets", []):
            for vector in vectors(expand(target["expr"])):
                yield Query(f"panel {panel['title']!r} ({target['refId']})", vector)
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = _LABEL_VALUES.fullmatch(variable["definition"])
            if found is None:
                raise ValueError(f"variable {variable['name']}: {variable['definition']} is no label_values(…)")
            yield Query(f"variable {variable['name']!r}", f"count by ({found[2]}) ({expand(found[1])})")
    for annotation in board["annotations"]["list"]:
        for vector in vectors(expand(annotation["expr"])):
            yield Query(f"annotation {annotation['name']!r}", vector)


def alert_queries(alerts: Path = ALERTS) -> Iterator[Query]:
    """The vectors that the alerts compare."""
    for group in yaml.safe_load(alerts.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            for vector in vectors(rule["expr"]):
                yield Query(f"alert {rule['alert']}", vector)


def vectors(expression: str) -> Iterator[str]:
    """The vectors behind a condition: its comparisons, set operators and `absent` taken away.

    What stands to the right of `unless` only ever takes away, and may be empty on a good day: it is left out.
    """
    expression = _unwrapped(expression.strip())
    operators = list(_operators(expression))
    for wanted in (r"or\b", r"and\b|unless\b", r"[=!<>]"):  # the loosest binds last
        for start, end in operators:
            operator = expression[start:end]
            if re.match(wanted, operator):
                yield from vectors(expression[:start])
                if not operator.startswith("unless"):
                    yield from vectors(expression[end:])
                return
    if _NUMBER.fullmatch(expression):
        return
    absent = re.fullmatch(r"absent(?:_over_time)?\s*\((.*)\)", expression, re.DOTALL)
    yield absent[1].strip() if absent else expression


def _operators(expression: str) -> Iterator[tuple[int, int]]:
    """Where the comparisons and set operators stand that are inside no bracket and no string."""
    depth = 0
    for token in _TOKEN.finditer(expression):
        text = token.group()
        if text in ("(", "{", "["):
            depth += 1
        elif text in (")", "}", "]"):
            depth -= 1
        elif depth == 0 and text[0] not in "\"'":
            yield token.span()


def _unwrapped(expression: str) -> str:
    """The expression without the brackets around all of it."""
    while expression.startswith("(") and expression.endswith(")"):
        depth = 0
        for token in _TOKEN.finditer(expression):
            depth += {"(": 1, ")": -1}.get(token.group(), 0)
            if depth == 0:
                break
        if token.end() != len(expression):
            break
        expression = expression[1:-1].strip()
    return expression


def ask(prometheus: str, expression: str, at: float | None = None) -> list[Any]:
    """The samples of an instant query. Raises `ValueError` with Prometheus' own words if it cannot answer it."""
    asked = {"query": expression, **({} if at is None else {"time": str(at)})}
    url = f"{prometheus.rstrip('/')}/api/v1/query?{urllib.parse.urlencode(asked)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            data = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error).get("error", str(error))) from None
    result: list[Any] = data["result"] if data["resultType"] == "vector" else [{"value": data["result"]}]
    return result


def failures(prometheus: str, queries: list[Query], at: float | None = None) -> list[str]:
    """A line for each query that fails, or whose answer holds no number."""
    found = []
    for query in queries:
        try:
            samples = ask(prometheus, query.expression, at)
        except ValueError as error:
            found.append(f"{query.place}: {error}: {query.expression}")
            continue
        if all(sample["value"][1] == "NaN" for sample in samples):
            found.append(f"{query.place}: {'only NaN' if samples else 'no data'}: {query.expression}")
    return found


def main() -> int:
    """Ask everything, print what fails and how much was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", help="address of a Prometheus, as http://127.0.0.1:9090")
    parser.add_argument("--at", type=float, help="the moment to ask about, in seconds since 1970; by default now")
    parser.add_argument("--interval", default="1m", help="what $__rate_interval stands for (default 1m)")
    options = parser.parse_args()
    queries = [*dashboard_queries(interval=options.interval), *alert_queries()]
    try:
        found = failures(options.prometheus, queries, options.at)
    except urllib.error.URLError as error:
        print(f"{options.prometheus}: {error.reason}; is Prometheus running there?", file=sys.stderr)
        return 1
    for line in found:
        print(line)
    print(f"{len(queries) - len(found)} of {len(queries)} queries return data", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
