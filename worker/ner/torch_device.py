"""What the torch engines share: where they run, in which numbers, and how arrays get there."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from worker.ner.decoding import Float32
from worker.ner.errors import EngineError, EngineOutOfMemory, ModelError

_CPU_OUT_OF_MEMORY: Final = ("can't allocate memory", "not enough memory")
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchDevice:
    """One device, its precision and a CUDA stream for each thread, so that two batches can be in flight."""

    def __init__(self, device: str, precision: str, threads: int) -> None:
        """`device` is `cpu` or `cuda`; precision `auto` is float32 on the CPU, else bfloat16 where the GPU has it.

        Raises `ModelError` where CUDA is asked for and absent.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError(
                "device cuda: PyTorch finds no CUDA device here; use --device cpu, or install its CUDA build"
            )
        self.is_cuda = device == "cuda"
        self.device = torch.device("cuda", torch.cuda.current_device()) if self.is_cuda else torch.device("cpu")
        self.dtype = _DTYPES.get(precision) or self._best_dtype()
        self._streams = threading.local()
        if not self.is_cuda:
            torch.set_num_threads(threads)

    @property
    def forward_threads(self) -> int:
        """Two on CUDA, where one batch is prepared while another runs; one on the CPU."""
        return 2 if self.is_cuda else 1

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model here, in this precision, ready for inference."""
        with self.errors():
            placed = model.to(device=self.device, dtype=self.dtype).eval()
            if self.is_cuda:
                torch.cuda.synchronize(self.device)  # other threads' streams must not read half-copied weights
            return placed

    def run(
        self, inputs: Mapping[str, NDArray[np.int64]], forward: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    ) -> Float32:
        """Run a forward pass and bring its logits back in float32."""
        with self.errors(), torch.inference_mode(), self._stream():
            tensors = {name: self._send(array) for name, array in inputs.items()}
            logits: Float32 = forward(tensors).float().cpu().numpy()
            return logits

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn torch's errors into `EngineOutOfMemory` and `EngineError`."""
        try:
            yield
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise EngineOutOfMemory(f"torch: out of memory on {self.device}") from None
        except MemoryError:
            raise EngineOutOfMemory("torch: out of memory") from None
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["RuntimeError"])[0][:300]
            if any(sign in reason for sign in _CPU_OUT_OF_MEMORY):
                raise EngineOutOfMemory("torch: out of memory") from None
            raise EngineError(f"torch: {reason}") from None

    def _send(self, array: NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.is_cuda else tensor

    @contextmanager
    def _stream(self) -> Iterator[None]:
        if not self.is_cuda:
            yield
            return
        stream: Any = getattr(self._streams, "own", None)
        if stream is None:
            stream = self._streams.own = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            yield

    def _best_dtype(self) -> torch.dtype:
        if not self.is_cuda:
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
