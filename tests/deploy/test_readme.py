"""The README's commands, table and example are those of the code."""

import json
import re

import jsonschema_rs
from deployment import ROOT, SETTING_VARIABLES, load_script

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEST_VARIABLES = {"KONER_FUZZ_INPUTS", "KONER_FUZZ_SEED"}  # of the tests, not of the worker
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    written = README.split("<!-- settings -->\n")[1].split("<!-- /settings -->")[0]
    assert written == load_script(ROOT / "docs" / "settings_table.py").table(), "run python docs/settings_table.py"


def test_the_two_set_up_commands_stand_word_for_word() -> None:
    for extra, then in (("demo", "koner demo"), ("test", "pytest")):
        command = f"python3 -m venv .venv && .venv/bin/pip install -c constraints.txt '.[{extra}]' && .venv/bin/{then}"
        assert command in README.splitlines()


def test_the_example_record_keeps_its_contract_and_its_spans_are_exact() -> None:
    before, after = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL))
    folder = ROOT / "schemas"
    schemas = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    registry = jsonschema_rs.Registry([(schema["$id"], schema) for schema in schemas.values()])
    jsonschema_rs.validator_for(schemas["raw-review.json"], registry=registry).validate(before)
    jsonschema_rs.validator_for(schemas["enriched.json"], registry=registry).validate(after)
    assert {name: value for name, value in after.items() if name in before} == before
    for entity in after["entities"]:
        assert after["text"][entity["start"] : entity["end"]] == entity["text"]


def test_variables_in_the_pages_are_real_settings() -> None:
    for page in PAGES:
        named = set(re.findall(r"\bKONER_[A-Z]+(?:_[A-Z]+)*", page.read_text(encoding="utf-8"))) - TEST_VARIABLES
        assert named <= SETTING_VARIABLES, page.name


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
