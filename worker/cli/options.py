"""The options that several commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file of settings.")]
Servers = Annotated[str | None, typer.Option(help="Kafka brokers, host:port separated by commas.", show_default=False)]
Model = Annotated[str | None, typer.Option(help="bundled, a folder, or a hub name.", show_default=False)]
Taxonomy = Annotated[str | None, typer.Option(help="seed, movies, klue, or a TOML file.", show_default=False)]
EngineName = Annotated[
    Literal["auto", "torch", "onnxruntime"] | None, typer.Option(help="What runs the model.", show_default=False)
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the model runs.", show_default=False)
]
Plain = Annotated[bool, typer.Option("--plain", help="A text a line, instead of JSON objects with `text`.")]
