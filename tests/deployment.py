"""What the tests of `deploy/` read: its files, and what the worker really exports and takes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase

from worker.observe.metrics import Metrics
from worker.settings import ENVIRONMENT_PREFIX, Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SETTING_VARIABLES = frozenset(ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields)
SCRAPED_LABELS = frozenset({"job", "instance"})  # Prometheus adds them to every series
PROCESS_METRICS = frozenset(
    {"up", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"}
)


def load_yaml(path: Path) -> Any:
    """A YAML file with one document."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def load_script(path: Path) -> ModuleType:
    """A script of the repository as a module, without running it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def exported_series() -> dict[str, frozenset[str]]:
    """The labels of every series that the worker's own metrics can have, by its name."""
    series: dict[str, frozenset[str]] = {}
    for metric in vars(Metrics()).values():
        if not hasattr(metric, "describe"):
            continue
        (family,) = metric.describe()
        labels = frozenset(metric._labelnames if isinstance(metric, MetricWrapperBase) else family._labelnames)
        if family.type == "counter":
            series[f"{family.name}_total"] = labels
        elif family.type == "histogram":
            series |= {f"{family.name}_sum": labels, f"{family.name}_count": labels}
            series[f"{family.name}_bucket"] = labels | {"le"}
        else:
            series[family.name] = labels
    return series
