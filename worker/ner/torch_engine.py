"""The engine for a GPU, or for the CPU in floating point: a character tagger in PyTorch."""

from collections.abc import Sequence

import torch

from worker.ner.assembly import assemble
from worker.ner.character_text import CharacterText, read_encoder
from worker.ner.engine import Encoded, ModelInfo, Window
from worker.ner.errors import ModelError
from worker.ner.model_config import TORCH_FILE, ModelConfig
from worker.ner.network import CharacterTagger
from worker.ner.taxonomy import Taxonomy
from worker.ner.torch_device import TorchDevice
from worker.records import Entity, Span


class TorchEngine:
    """Runs a model folder's safetensors. `encode` and `forward` may be called from several threads at once."""

    def __init__(self, config: ModelConfig, taxonomy: Taxonomy, device: TorchDevice) -> None:
        """Raises `ModelError` if the folder's files cannot be used."""
        if not (config.folder / TORCH_FILE).is_file():
            raise ModelError(f"{config.folder}: no {TORCH_FILE} in it; copy the model again")
        try:
            model = CharacterTagger.from_folder(config.folder)
        except Exception as error:  # safetensors, torch and JSON each raise their own
            raise ModelError(f"{config.folder}: its weights cannot be read ({type(error).__name__})") from None
        self._text = CharacterText(read_encoder(config), config.max_pieces, config.layers[taxonomy.layer])
        self._layer = list(config.layers).index(taxonomy.layer)
        self._taxonomy = taxonomy
        self._device = device
        self._model = device.place(model)
        self._info = ModelInfo(config.name, config.revision, taxonomy.name, "torch", str(device.device))

    @property
    def info(self) -> ModelInfo:
        """The model, its revision, the taxonomy and where it runs."""
        return self._info

    @property
    def forward_threads(self) -> int:
        """Two on CUDA, one on the CPU."""
        return self._device.forward_threads

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """See `Engine.encode`."""
        return self._text.encode(texts)

    def forward(self, windows: Sequence[Window]) -> list[list[Span]]:
        """See `Engine.forward`."""
        if not windows:
            return []
        inputs = self._text.collate(windows)
        return self._text.decode(self._device.run(inputs, self._logits), inputs, windows)

    def assemble(self, encoded: Encoded, spans: Sequence[Sequence[Span]]) -> list[Entity]:
        """See `Engine.assemble`."""
        return assemble(encoded, spans, self._taxonomy)

    def _logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self._model(**inputs)[self._layer]
        return logits
