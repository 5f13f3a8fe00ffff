"""The commands about the stream: run, demo, topics, settings."""

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from worker.cli.answers import answer, clear_errors
from worker.cli.cluster import ask_cluster
from worker.cli.loading import settings_of
from worker.cli.options import Config, Device, EngineName, Model, Servers, Taxonomy


def run(
    config: Config = None,
    bootstrap_servers: Servers = None,
    group: Annotated[str | None, typer.Option(help="Consumer group.", show_default=False)] = None,
    model: Model = None,
    taxonomy: Taxonomy = None,
    engine: EngineName = None,
    device: Device = None,
    web_host: Annotated[str | None, typer.Option(help="Address the pages are served on.", show_default=False)] = None,
    web_port: Annotated[int | None, typer.Option(help="Port of the pages.", show_default=False)] = None,
    log_format: Annotated[
        Literal["auto", "text", "json"] | None, typer.Option(help="Form of log lines.", show_default=False)
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="Least severe line logged.", show_default=False),
    ] = None,
) -> None:
    """Enrich records from Kafka until SIGTERM or Ctrl-C. Options win over KONER_ variables, those over the file."""
    with clear_errors():
        settings = settings_of(
            config,
            bootstrap_servers=bootstrap_servers,
            group=group,
            model=model,
            taxonomy=taxonomy,
            engine=engine,
            device=device,
            web_host=web_host,
            web_port=web_port,
            log_format=log_format,
            log_level=log_level,
        )
        from worker.process import run

        raise typer.Exit(run(settings))


def demo(
    records: Annotated[
        int | None, typer.Option(min=1, help="Records to send; by default every sample once.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the live page; by default 6066 or any.", show_default=False),
    ] = None,
    page: Annotated[bool, typer.Option(help="Keep the live page up until Ctrl-C, on a terminal.")] = True,
) -> None:
    """Show it all on this machine: a broker, sample queries and reviews, the worker, and what comes out."""
    with clear_errors():
        from worker.demo.show import run as show

        raise typer.Exit(show(records, port, page=page))


def create_topics(
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each topic.")] = 3,
    replication: Annotated[int, typer.Option(min=1, help="Copies of each partition.")] = 1,
    config: Config = None,
    bootstrap_servers: Servers = None,
) -> None:
    """Make the topics that the settings name and the cluster lacks; prints what became of each as JSON."""
    with clear_errors():
        settings = settings_of(config, bootstrap_servers=bootstrap_servers)
        from worker.stream import topics

        outcomes = ask_cluster(settings, topics.create(settings, partitions=partitions, replication=replication))
        rows = [asdict(outcome) for outcome in outcomes]
        answer(rows, rows, ("topic", "outcome", "partitions"))


def list_topics(config: Config = None, bootstrap_servers: Servers = None) -> None:
    """Tell which of the topics that the settings name exist, as JSON."""
    with clear_errors():
        settings = settings_of(config, bootstrap_servers=bootstrap_servers)
        from worker.stream import topics

        missing = ask_cluster(settings, topics.missing(settings))
        rows = [{"topic": name, "exists": name not in missing} for name in topics.required(settings)]
        answer(rows, rows, ("topic", "exists"))


def show_settings(config: Config = None) -> None:
    """Show every setting: its name, KONER_ variable, default, and value now."""
    with clear_errors():
        from worker.settings import describe

        rows = describe(settings_of(config))
        answer(rows, rows, ("name", "value", "default", "description"))
