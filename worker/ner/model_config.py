"""What the `config.json` of a model folder says, read without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from worker.ner.errors import ModelError
from worker.ner.tags import TagTable, Transitions

FORMAT: Final = "koner-character-tagger/1"
ONNX_FILE: Final = "model.int8.onnx"
TORCH_FILE: Final = "model.safetensors"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A character tagger's name, limits and label layers, in the order of its outputs."""

    folder: Path
    name: str
    revision: str
    max_pieces: int  # pieces in a window, the two special ones included
    layers: Mapping[str, TagTable]

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The labels of each layer."""
        return {name: table.labels for name, table in self.layers.items()}


def read_json(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`, of whatever format. Raises `ModelError` where it isn't there or isn't an object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError:
        raise ModelError(f"{folder}: no config.json in it; a model folder holds one beside its weights") from None
    except ValueError:  # UnicodeDecodeError is one as well
        raise ModelError(f"{path}: not JSON; copy the model again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object; copy the model again")
    return config


def read_config(folder: Path) -> ModelConfig:
    """Read the config of a folder whose format is ours. Raises `ModelError` with one line."""
    path = folder / "config.json"
    config = read_json(folder)
    if config.get("format") != FORMAT:
        raise ModelError(f"{path}: format is {config.get('format')!r}, this program reads {FORMAT!r}")
    try:
        layers = {str(layer["name"]): _tag_table(layer) for layer in config["layers"]}
        name, revision, max_pieces = str(config["name"]), str(config["revision"]), int(config["max_pieces"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: damaged ({type(error).__name__}: {error}); copy the model again") from None
    if not layers or max_pieces < 3:
        raise ModelError(f"{path}: damaged (no label layers, or max_pieces below 3); copy the model again")
    return ModelConfig(folder, name, revision, max_pieces, layers)


def _tag_table(layer: Mapping[str, Any]) -> TagTable:
    return TagTable.of(layer["tags"], strict=True, transitions=read_transitions(layer))


def read_transitions(layer: Mapping[str, Any]) -> Transitions | None:
    """The transitions of a label layer of the config; None where it was trained without."""
    stored = layer.get("transitions")
    if stored is None:
        return None
    return Transitions(np.array(stored["moves"], np.float32), np.array(stored["stays"], np.float32))
