"""`koner demo` as it is installed: the command line, the bundled model, the shipped samples."""

import json
import os
import subprocess
import sys

from deployment import SETTING_VARIABLES

PATIENCE_SECONDS = 120


def test_koner_demo_finds_people_and_places_with_the_bundled_model() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in SETTING_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "worker.cli", "demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr.decode()
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) >= 500
    found = {(entity["type"], entity["text"]) for record in records for entity in record["entities"]}
    assert ("PER", "송강호") in found
    assert ("LOC", "부산") in found
    assert {entity_type for entity_type, _ in found} >= {"PER", "LOC", "ORG", "DATE"}
    for record in records:
        for entity in record["entities"]:
            assert record["text"][entity["start"] : entity["end"]] == entity["text"]
            assert 0 <= entity["score"] <= 1
