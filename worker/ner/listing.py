"""What a model is, told without loading it."""

from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from worker.ner.errors import ModelError
from worker.ner.model_config import ONNX_FILE, TORCH_FILE, ModelConfig, read_config
from worker.ner.taxonomy import OWN, SHIPPED, load_taxonomy


@dataclass(frozen=True, slots=True)
class ModelListing:
    """A model folder at a glance."""

    model: str  # as it is asked for
    name: str
    revision: str
    layers: dict[str, list[str]]  # the labels of each layer
    taxonomies: list[str]  # those shipped that fit its labels
    engines: list[str]  # those it has weights for
    max_pieces: int  # of one window
    bytes: int  # of the whole folder
    files: dict[str, int]  # in bytes

    def as_json(self) -> dict[str, Any]:
        """The listing as JSON-ready members."""
        return asdict(self)


def list_model(model: str = "bundled") -> ModelListing:
    """Tell of the bundled model or of a folder in our format. Raises `ModelError` with one line."""
    folder = Path(str(files("worker.ner") / "bundled")) if model == "bundled" else Path(model)
    if not folder.is_dir():
        raise ModelError(f"model {model}: no such folder")
    config = read_config(folder)
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    engines = {"onnxruntime": ONNX_FILE, "torch": TORCH_FILE}
    return ModelListing(
        model=model,
        name=config.name,
        revision=config.revision,
        layers={layer: list(labels) for layer, labels in config.labels.items()},
        taxonomies=[name for name in (*SHIPPED, OWN) if _fits(name, config)],
        engines=[engine for engine, file in engines.items() if file in sizes],
        max_pieces=config.max_pieces,
        bytes=sum(sizes.values()),
        files=sizes,
    )


def _fits(taxonomy: str, config: ModelConfig) -> bool:
    try:
        load_taxonomy(taxonomy, config.labels, config.name)
    except ModelError:
        return False
    return True
