"""From the settings' words to an engine that has shown that it works."""

import importlib.util
import logging
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Final, Protocol

from worker.ner.engine import Engine
from worker.ner.errors import EngineError, ModelError
from worker.ner.model_config import ONNX_FILE, ModelConfig, read_config, read_json
from worker.ner.taxonomy import load_taxonomy

log = logging.getLogger(__name__)

BUNDLED: Final = "bundled"
ENGINES: Final = ("auto", "onnxruntime", "torch")
DEVICES: Final = ("auto", "cpu", "cuda")
PRECISIONS: Final = ("auto", "float32", "bfloat16", "float16")
SELF_CHECK: Final = "이병헌은 2009년 서울에서 영화를 봤다."
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_NVIDIA: Final = ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia")


class EngineSettings(Protocol):
    """What the program's settings say of the engine: see `load_engine`."""

    @property
    def model(self) -> str: ...

    @property
    def taxonomy(self) -> str: ...

    @property
    def engine(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def threads(self) -> int | None: ...


def engine_of(settings: EngineSettings) -> Engine:
    """The engine that the settings ask for. Raises `ModelError`, as `load_engine` does."""
    return load_engine(
        settings.model,
        taxonomy=settings.taxonomy,
        engine=settings.engine,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
    )


def load_engine(
    model: str = BUNDLED,
    *,
    taxonomy: str = "seed",
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Engine:
    """Load a model and run one sentence through it.

    `model` is `bundled`, a model folder of `koner train`, or the folder or hub name of a Hugging Face checkpoint for
    token classification. `engine` is `auto`, `onnxruntime` (int8, on the CPU) or `torch`; `device` is `auto`, `cpu` or
    `cuda`; `precision` `auto`, `float32`, `bfloat16` or `float16` (torch only); `threads` are those of the CPU, by
    default one a core.
    Raises `ModelError` with one line that says what is wrong and what to do.
    """
    asked = {"engine": (engine, ENGINES), "device": (device, DEVICES), "precision": (precision, PRECISIONS)}
    for name, (value, known) in asked.items():
        if value not in known:
            raise ModelError(f"{name} {value}: not one of {', '.join(known)}")
    config = _tagger(model)
    threads = threads or _cores()
    device = _choose_device(engine, device)
    if engine == "auto":
        engine = "onnxruntime" if config is not None and device == "cpu" and precision == "auto" else "torch"
        if engine == "onnxruntime" and config is not None and not (config.folder / ONNX_FILE).is_file():
            engine = "torch"
    if engine == "onnxruntime":
        loaded = _load_onnx(model, config, taxonomy, device, precision, threads)
    else:
        loaded = _load_torch(model, config, taxonomy, device, precision, threads)
    check_engine(loaded, model)
    return loaded


def check_engine(engine: Engine, model: str) -> None:
    """Run one sentence from its text to its entities. Raises `ModelError` where any step fails."""
    try:
        (encoded,) = engine.encode([SELF_CHECK])
        if not encoded.windows:
            raise EngineError("no window for a sentence")
        spans = engine.forward(encoded.windows)
        for entity in engine.assemble(encoded, spans):
            if SELF_CHECK[entity.start : entity.end] != entity.text:
                raise EngineError("an entity is not where it says")
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"model {model} failed its self-check: {type(error).__name__}: {reason}") from error


def _tagger(model: str) -> ModelConfig | None:
    """The config of a folder in our format; None for what transformers has to load."""
    if model == BUNDLED:
        folder = Path(str(files("worker.ner") / "bundled"))
        if not (folder / "config.json").is_file():
            raise ModelError("model bundled: its files are not in this installation; install koner-stream again")
        return read_config(folder)
    folder = Path(model)
    if folder.is_dir():
        return read_config(folder) if "format" in read_json(folder) else None
    if folder.exists():
        raise ModelError(f"model {model}: a file; name the folder that holds the model")
    if not _HUB_NAME.fullmatch(model):
        raise ModelError(f"model {model}: no such folder")
    return None


def _load_onnx(
    model: str, config: ModelConfig | None, taxonomy: str, device: str, precision: str, threads: int
) -> Engine:
    if config is None:
        raise ModelError(f"model {model}: a Hugging Face checkpoint has no ONNX file; use the engine torch")
    if device == "cuda":
        raise ModelError("engine onnxruntime runs on the CPU; for device cuda use the engine torch")
    if precision != "auto":
        raise ModelError(f"engine onnxruntime computes in int8; for precision {precision} use the engine torch")
    from worker.ner.onnx_engine import OnnxEngine

    return OnnxEngine(config, load_taxonomy(taxonomy, config.labels, f"model {model}"), threads)


def _load_torch(
    model: str, config: ModelConfig | None, taxonomy: str, device: str, precision: str, threads: int
) -> Engine:
    for package in ("torch", "transformers", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(f"engine torch needs {package}, which isn't installed: pip install 'koner-stream[torch]'")
    from worker.ner.torch_device import TorchDevice

    placed = TorchDevice(device, precision, threads)
    try:
        if config is None:
            from worker.ner.checkpoint_engine import load_checkpoint

            return load_checkpoint(model, taxonomy=taxonomy, device=placed)
        from worker.ner.torch_engine import TorchEngine

        return TorchEngine(config, load_taxonomy(taxonomy, config.labels, f"model {model}"), placed)
    except EngineError as error:  # out of memory while its weights were moved
        raise ModelError(f"model {model} does not fit the device: {error}") from None


def _choose_device(engine: str, device: str) -> str:
    if device != "auto":
        return device
    # Importing torch takes seconds: not where there can be no CUDA device.
    if engine == "onnxruntime" or not any(os.path.exists(path) for path in _NVIDIA):
        return "cpu"
    if importlib.util.find_spec("torch") is None:
        log.warning("an NVIDIA device is here but PyTorch is not, so the model runs on the CPU")
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
