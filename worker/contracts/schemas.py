"""The schemas that every record is held to, as files that ship with the package."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import jsonschema_rs
import orjson

SCHEMAS = ("raw-query", "raw-review", "enriched", "dead-letter", "catalogue-entry")


def folder() -> Traversable:
    """Return the folder of the schemas: inside the package once installed, beside it in a checkout."""
    package = files("worker")
    for candidate in (package / "schemas", package / ".." / "schemas"):
        if (candidate / "raw-query.json").is_file():
            return candidate
    raise FileNotFoundError("koner-stream is installed without its schemas; install it again")


def load(name: str) -> dict[str, Any]:
    """Return the schema `name`, one of `SCHEMAS`, parsed."""
    schema: dict[str, Any] = orjson.loads((folder() / f"{name}.json").read_bytes())
    return schema


def validator(name: str, *, mask: str | None = None) -> jsonschema_rs.Draft202012Validator:
    """Compile the schema `name` with its references; formats are asserted, nothing is fetched.

    `mask` stands in error messages wherever the record's own values would. The validator is safe to share by threads.
    """
    registry = jsonschema_rs.Registry([(str(schema["$id"]), schema) for schema in map(load, SCHEMAS)])
    return jsonschema_rs.Draft202012Validator(
        load(name), registry=registry, validate_formats=True, mask=mask, offline=True
    )
