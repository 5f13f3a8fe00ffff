"""The commands: parsing and printing, no logic.

What a program reads goes to stdout, as JSON; people's words, progress and logs go to stderr. Exit codes: 0 done, 2 the
call is wrong, 1 anything else.
"""

import os
import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

from worker.cli import audit, models, recovery, stream
from worker.cli.answers import WRONG_CALL


def main() -> None:
    """Run the command line; the entry point of `koner`."""
    _open_what_is_closed()
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, TextIOWrapper):  # Korean comes out whole under LANG=C too
            output.reconfigure(encoding="utf-8", errors="backslashreplace")
    koner()


def _open_what_is_closed() -> None:
    """Where the process was started without stdin, stdout or stderr, /dev/null takes the place before a socket does."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one's own
            os.set_inheritable(null, True)
            setattr(sys, name, os.fdopen(null, "r" if name == "stdin" else "w", encoding="utf-8"))


def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if show_version:
        print(version("koner-stream"))
    elif context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(WRONG_CALL)


koner = typer.Typer(
    name="koner",
    help="Attach Korean named entities to search queries and movie reviews on Kafka.",
    epilog="Settings: `koner settings`. Exit codes: 0 done, 2 the call is wrong, 1 anything else.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
topics = typer.Typer(help="Make or list the topics that the settings name.", rich_markup_mode=None)
dead_letters = typer.Typer(
    help="List, show or send back the records that could not be enriched.", rich_markup_mode=None
)
koner.callback(invoke_without_command=True)(_root)
for command in (
    stream.demo,
    stream.run,
    models.annotate,
    models.evaluate,
    models.train,
    models.models,
    models.bench,
    audit.verify,
    recovery.replay,
):
    koner.command()(command)
koner.add_typer(topics, name="topics", no_args_is_help=True)
topics.command("create")(stream.create_topics)
topics.command("list")(stream.list_topics)
koner.add_typer(dead_letters, name="dead-letters", no_args_is_help=True)
dead_letters.command("list")(recovery.list_letters)
dead_letters.command("show")(recovery.show_letter)
dead_letters.command("replay")(recovery.replay_letters)
koner.command("settings")(stream.show_settings)
