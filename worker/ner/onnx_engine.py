"""The engine for the CPU: a character tagger's int8 file on ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from worker.ner.assembly import assemble
from worker.ner.character_text import CharacterText, read_encoder
from worker.ner.engine import Encoded, ModelInfo, Window
from worker.ner.errors import EngineError, EngineOutOfMemory, ModelError
from worker.ner.model_config import ONNX_FILE, ModelConfig
from worker.ner.taxonomy import Taxonomy
from worker.records import Entity, Span

_OUT_OF_MEMORY = ("bad_alloc", "failed to allocate", "out of memory")


class OnnxEngine:
    """Runs `model.int8.onnx`. `encode` and `forward` may be called from several threads at once."""

    def __init__(self, config: ModelConfig, taxonomy: Taxonomy, threads: int) -> None:
        """`threads` compute one batch together. Raises `ModelError` if the folder's files cannot be used."""
        path = config.folder / ONNX_FILE
        if not path.is_file():
            raise ModelError(f"{config.folder}: no {ONNX_FILE} in it; export it, or use the engine torch")
        try:
            self._session = cpu_session(path, threads)
        except Exception as error:
            raise ModelError(
                f"{path}: ONNX Runtime cannot load it ({_first_line(error)}); copy the model again"
            ) from None
        outputs = [output.name for output in self._session.get_outputs()]
        if taxonomy.layer not in outputs:
            raise ModelError(f"{path}: no output {taxonomy.layer}; it has {', '.join(outputs)}")
        self._text = CharacterText(read_encoder(config), config.max_pieces, config.layers[taxonomy.layer])
        self._taxonomy = taxonomy
        self._info = ModelInfo(config.name, config.revision, taxonomy.name, "onnxruntime", "cpu")

    @property
    def info(self) -> ModelInfo:
        """The model, its revision, the taxonomy and where it runs."""
        return self._info

    @property
    def forward_threads(self) -> int:
        """One: a batch already takes all the threads."""
        return 1

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """See `Engine.encode`."""
        return self._text.encode(texts)

    def forward(self, windows: Sequence[Window]) -> list[list[Span]]:
        """See `Engine.forward`."""
        if not windows:
            return []
        inputs = self._text.collate(windows)
        try:
            (logits,) = self._session.run([self._taxonomy.layer], inputs)
        except MemoryError:
            raise EngineOutOfMemory("onnxruntime: out of memory") from None
        except Exception as error:  # ONNX Runtime's own exceptions have no common parent
            reason = _first_line(error)
            if any(sign in reason.lower() for sign in _OUT_OF_MEMORY):
                raise EngineOutOfMemory(f"onnxruntime: {reason}") from None
            raise EngineError(f"onnxruntime: {reason}") from None
        return self._text.decode(np.asarray(logits), inputs, windows)

    def assemble(self, encoded: Encoded, spans: Sequence[Sequence[Span]]) -> list[Entity]:
        """See `Engine.assemble`."""
        return assemble(encoded, spans, self._taxonomy)


def cpu_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX file on the CPU; `threads` 0 takes a thread per core. Raises ONNX Runtime's own exceptions."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A plan of memory is kept for every shape of batch that ever came; with texts there is no end of them.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # An addition and a LayerNormalization take a fifth of the time of the one operator that they would be fused into.
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
