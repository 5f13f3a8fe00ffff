"""From a command's options to settings and an engine; what cannot be had is one line and an exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.cli.answers import WRONG_CALL, fail

if TYPE_CHECKING:
    from worker.ner.engine import Engine
    from worker.settings import Settings


def settings_of(config: Path | None, **overrides: Any) -> "Settings":
    """The settings; options that were not given are None in `overrides`."""
    from worker.settings import SettingsError, load

    try:
        return load(config, **overrides)
    except SettingsError as error:
        fail(str(error), WRONG_CALL)


def quiet_logs() -> None:
    """Log only warnings from here on, for people."""
    from worker import logs

    logs.configure("text", "warning")


def engine_of(settings: "Settings") -> "Engine":
    """The engine that the settings ask for; only warnings are logged from here on."""
    from worker.ner.errors import ModelError
    from worker.ner.loading import engine_of as load

    quiet_logs()
    try:
        return load(settings)
    except ModelError as error:
        fail(str(error))
