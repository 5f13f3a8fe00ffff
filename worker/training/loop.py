"""The optimisation: batches in, weights out, with a checkpoint now and then."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from worker.ner.encoding import CharacterEncoder
from worker.ner.network import CharacterTagger
from worker.training.base import SPECIALS
from worker.training.examples import Example, Float16, Noise, batches, with_noise
from worker.training.labels import UNLABELLED
from worker.training.likelihood import Lattice, negative_log_likelihood
from worker.training.recipe import LoopRecipe, TeacherRecipe

_UNKNOWN: Final = SPECIALS.index("<unk>")
_CLIP: Final = 1.0
CHECKPOINT: Final = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run stands, for whoever watches it."""

    step: int
    steps: int  # of the whole run, if its time doesn't end first
    part: float  # of the run that is done, 0 to 1: by steps or by minutes, whichever is further
    loss: float  # running mean
    minutes: float  # trained, over all resumptions


@dataclass(slots=True)
class _State:
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    saved_at: float = field(default=0.0)


class Trainer:
    """Runs a recipe's loop over the examples of each pass.

    A checkpoint holds weights, optimiser and place; what a resumed run sees next is what it would have seen, since
    every pass and batch draws from a generator seeded by the recipe's seed and its own number.
    """

    def __init__(
        self,
        model: CharacterTagger,
        encoder: CharacterEncoder,
        examples_of_pass: Callable[[int], list[Example]],
        recipe: LoopRecipe,
        noise: Noise,
        made_from: Mapping[str, str],
        teacher: TeacherRecipe | None = None,
    ) -> None:
        """`made_from` are the hashes of all that the run depends on; a checkpoint of others is not taken up."""
        self._made_from = dict(made_from)
        self._model, self._encoder, self._examples_of_pass = model, encoder, examples_of_pass
        self._recipe, self._noise, self._teacher = recipe, noise, teacher
        self._bfloat16 = recipe.bfloat16 and _has_bfloat16(next(model.parameters()).device)
        encoding = list(model.encoder.parameters())
        known = {id(parameter) for parameter in encoding}
        transitions = [*model.moves, *model.stays]
        known |= {id(parameter) for parameter in transitions}
        head = [parameter for parameter in model.parameters() if id(parameter) not in known]
        self._optimiser = torch.optim.AdamW(
            [
                {"params": encoding, "lr": recipe.encoder_rate, "peak": recipe.encoder_rate},
                {"params": head, "lr": recipe.head_rate, "peak": recipe.head_rate},
                {"params": transitions, "lr": recipe.transition_rate, "peak": recipe.transition_rate},
            ],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._state = _State()

    def resume(self, folder: Path) -> bool:
        """Take up the checkpoint in `folder`; False if there is none. Raises ValueError for another run's."""
        path = folder / CHECKPOINT
        if not path.exists():
            return False
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        others = sorted({name for name, _ in stored.get("made_from", {}).items() ^ self._made_from.items()})
        if others:
            raise ValueError(f"{folder}: holds a run on another {', '.join(others)}; choose another folder")
        self._model.load_state_dict(stored["model"])
        self._optimiser.load_state_dict(stored["optimiser"])
        self._state = _State(stored["step"], stored["seconds"], stored["loss"], stored["seconds"])
        return True

    def fit(self, folder: Path, progress: Callable[[Step], None], after_pass: Callable[[int], None]) -> None:
        """Train to the end of the recipe, writing checkpoints to `folder`; `after_pass` gets the number of each."""
        first = list(self._batches(0))
        steps = len(first) * self._recipe.passes
        done = 0
        for number in range(self._recipe.passes):
            before = self._state.step
            for batch in first if number == 0 else self._batches(number):
                done += 1
                if done <= self._state.step:
                    continue
                part = self._part(steps)
                if part >= 1:  # its time is over
                    break
                began = time.perf_counter()
                random = np.random.default_rng((self._recipe.seed, done))
                torch.manual_seed(self._recipe.seed + done)
                self._step(batch, part, random)
                self._state.step = done
                self._state.seconds += time.perf_counter() - began
                progress(Step(done, steps, part, self._state.loss, self._state.seconds / 60))
                if self._state.seconds - self._state.saved_at > 60 * self._recipe.checkpoint_minutes:
                    self._save(folder)
            if self._state.step > before:
                after_pass(number)
            if self._part(steps) >= 1:
                break
        self._save(folder)

    def _part(self, steps: int) -> float:
        by_time = self._state.seconds / 60 / self._recipe.minutes if self._recipe.minutes else 0.0
        return max(self._state.step / steps, by_time)

    def _batches(self, number: int) -> Iterator[list[Example]]:
        examples = self._examples_of_pass(number)
        random = np.random.default_rng((self._recipe.seed, 1 << 20, number))
        lengths = [len(example.text) for example in examples]
        for indices in batches(lengths, self._recipe.characters, self._recipe.rows, random):
            yield [examples[index] for index in indices]

    def _step(self, batch: list[Example], part: float, random: np.random.Generator) -> None:
        recipe = self._recipe
        warm = min(part / recipe.warm_up, 1.0) if recipe.warm_up else 1.0
        rate = warm * (1 - part) / (1 - recipe.warm_up) if part > recipe.warm_up else warm
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        self._model.train()
        examples = [with_noise(example, self._noise, random) for example in batch]
        inputs, targets = self._tensors(examples)
        pieces = inputs["input_ids"]
        hidden = torch.from_numpy(random.random(pieces.shape) < recipe.piece_dropout).to(pieces.device)
        inputs["input_ids"] = pieces.masked_fill(hidden & (pieces >= len(SPECIALS)), _UNKNOWN)
        with torch.autocast(pieces.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self._model(**inputs)
        losses = self._losses(logits, targets, inputs["characters"] != 0, examples)
        if not losses:
            return
        loss = torch.stack(losses).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), _CLIP)
        self._optimiser.step()
        self._optimiser.zero_grad()
        value = float(loss.detach())
        self._state.loss = value if self._state.loss == 0 else 0.99 * self._state.loss + 0.01 * value

    def _losses(
        self, logits: Sequence[Tensor], targets: Sequence[Tensor], real: Tensor, examples: Sequence[Example]
    ) -> list[Tensor]:
        """Of the labels and of the teacher, for each layer in which some text has any."""
        losses = []
        taught = [row for row, example in enumerate(examples) if example.taught] if self._teacher else []
        for number, (layer, target) in enumerate(zip(logits, targets, strict=True)):
            layer, labelled = layer.float(), bool((target != UNLABELLED).any())
            temperature = self._teacher.temperature if self._teacher else 1.0
            if self._recipe.transition_rate:
                moves, stays = self._model.moves[number], self._model.stays[number]
                lattice = Lattice(layer, real, moves, stays, self._model.tag_table(number))
                if labelled:
                    losses.append(negative_log_likelihood(lattice, target))
                likely = lattice.log_probabilities() if taught else layer
            else:
                if labelled:
                    losses.append(cross_entropy(layer.flatten(0, 1), target.flatten(), ignore_index=UNLABELLED))
                likely = (layer / temperature).log_softmax(-1)
            if self._teacher and taught:
                logits_of = [(likely[row, : len(examples[row].text)], examples[row].taught[number]) for row in taught]
                losses.append(self._teacher.weight * _divergence(logits_of, temperature))
        return losses

    def _tensors(self, batch: list[Example]) -> tuple[dict[str, Tensor], list[Tensor]]:
        device = next(self._model.parameters()).device
        arrays = self._encoder.collate(self._encoder.encode([example.text for example in batch]))
        shape = arrays["characters"].shape
        targets = np.full((2, *shape), UNLABELLED, np.int64)
        for row, example in enumerate(batch):
            targets[0, row, : len(example.text)] = example.fine
            targets[1, row, : len(example.text)] = example.klue
        inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return inputs, list(torch.from_numpy(targets).to(device))

    def _save(self, folder: Path) -> None:
        state = self._state
        stored = {
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": state.step,
            "seconds": state.seconds,
            "loss": state.loss,
            "made_from": self._made_from,
        }
        # Written aside and renamed, so that a cut never leaves half a checkpoint.
        torch.save(stored, folder / (CHECKPOINT + ".new"))
        (folder / (CHECKPOINT + ".new")).replace(folder / CHECKPOINT)
        state.saved_at = state.seconds


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware itself computes in bfloat16: where it is emulated, a step takes many times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _divergence(of_rows: Sequence[tuple[Tensor, Float16]], temperature: float) -> Tensor:
    """From the teacher's labels, a mean over characters of texts' log-probabilities [C, tags] and its logits.

    Scaled by the temperature squared, so that the weight means the same at every temperature (Hinton et al. 2015,
    "Distilling the Knowledge in a Neural Network").
    """
    own = torch.cat([likely for likely, _ in of_rows])
    taught = torch.from_numpy(np.concatenate([logits for _, logits in of_rows])).to(own.device).float()
    wanted = (taught / temperature).log_softmax(-1)
    return temperature**2 * kl_div(own, wanted, reduction="batchmean", log_target=True)
