"""Logging as it was before a test set it up anew."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from worker import logs


@contextmanager
def logging_restored() -> Iterator[None]:
    """Put back handlers and levels, so that other tests' captures go on."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in logs.QUIET}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
        logging.captureWarnings(False)
