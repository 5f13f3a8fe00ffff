"""`koner train --from`: further training of a model folder on a user's own texts, marked for labels of their own."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.ner.layers import LabelLayer
from worker.ner.loading import BUNDLED
from worker.ner.model_config import read_config
from worker.ner.network import WEIGHTS, CharacterTagger, write_revision
from worker.ner.taxonomy import choose_layer, load_taxonomy, read_taxonomy
from worker.text.normalise import normalise
from worker.training.evaluation import Predict, score_spans
from worker.training.examples import batches
from worker.training.export import export_onnx, onnx_forward
from worker.training.labels import LabelledSpan
from worker.training.lessons import Labels, Lesson, lessons_of, loss_of
from worker.training.loop import CHECKPOINT, Step
from worker.training.own_lines import OwnText, read_own_lines, stretches
from worker.training.queries import QueryWords, make_queries, read_words
from worker.training.recipe import LoopRecipe
from worker.training.reviews import make_reviews
from worker.training.run import RUN_FOLDER, code_sha256, file_sha256
from worker.training.start import Start, start_from
from worker.training.tagging import Forward, predictor, torch_forward

log = logging.getLogger(__name__)
Float32 = NDArray[np.float32]

_LOOP: Final = LoopRecipe(
    passes=6,
    minutes=0,
    seed=20261,
    rows=16,
    characters=700,
    encoder_rate=5e-5,
    head_rate=2e-3,
    transition_rate=0,
    weight_decay=0.01,
    warm_up=0.1,
    dropout=0.1,
    piece_dropout=0.0,
    bfloat16=False,
    checkpoint_minutes=0,
)
_CLIP: Final = 1.0
_ASIDE: Final = 10  # every tenth marked text
_LONGEST: Final = 256  # characters of a stretch
_MADE: Final = 400  # synthetic texts that are rehearsed
_REHEARSED: Final = 300  # texts rehearsed in a pass, if the user's are no more
_WATCHED: Final = 200  # further synthetic texts, to compare the model with itself as it was
_RARE: Final = -3.0  # what a new label's bias is below that of "outside" at first


@dataclass(frozen=True, slots=True)
class Furthered:
    """What a further training made. Figures are of the int8 weights; None where there was nothing to score."""

    folder: Path
    revision: str
    texts: int  # marked, that were learned from
    kept_aside: int  # marked, that were not
    marked: tuple[str, ...]
    f1: float | None  # micro, of the marked labels on the texts kept aside
    f1_of: dict[str, float]
    agreement: float  # micro F1 of the other labels against what the model found before, texts aside and synthetic
    not_taught: dict[str, int]  # spans of labels that the texts aren't marked for


@dataclass(frozen=True, slots=True)
class _Plan:
    folder: Path
    name: str  # of the model made
    labels: Labels
    fold: Mapping[str, str | None]


def train_further(
    model: str,
    data: Path,
    labels: Path,
    out: Path,
    *,
    rehearsal: Sequence[str] = (),
    resume: bool = False,
    progress: Callable[[Step], None] = lambda step: None,
) -> Furthered:
    """Train the model folder `model` (or `bundled`) on the lines of `data` and write the model folder `out`.

    `labels` is a taxonomy file for the model that is made: it names each of the old model's labels and the new ones.
    Its `marked` says which labels the texts are marked for, throughout; without it, those that the model lacks.
    On the texts `rehearsal`, and on synthetic ones, the old model's labels are kept.
    Raises `ModelError` or ValueError with one line, OSError for a file that isn't there, and FileExistsError if `out`
    holds a run and `resume` is False.
    """
    plan = _read_plan(model, labels)
    if out.exists() and out.resolve() == plan.folder.resolve():
        raise ValueError(f"{out}: is the model to begin from; choose another folder")
    own, not_taught = read_own_lines(data, plan.fold, plan.labels.marked)
    made_from = {
        "data": file_sha256(data),
        "labels": file_sha256(labels),
        "code": code_sha256(),
        "from": file_sha256(plan.folder / WEIGHTS),
    }
    run = out / RUN_FOLDER
    if run.exists() and not resume:
        raise FileExistsError(f"{run}: holds an earlier run; take it up with --resume, or choose another folder")
    begun = start_from(plan.folder, None, _LOOP)
    most = min(_LONGEST, begun.model.encoder_shape.positions - 3)
    marked = [one for one in own if one.spans is not None]
    aside = [part for one in marked[_ASIDE - 1 :: _ASIDE] for part in stretches(one, most)]
    learned = [one for number, one in enumerate(marked) if number % _ASIDE != _ASIDE - 1]
    for label in plan.labels.marked:
        if not any(span.label == label for one in learned for span in one.spans or ()):
            raise ValueError(f"{data}: no text marks {label}")
    unmarked = [one for one in own if one.spans is None]
    shown = [part for one in [*learned, *unmarked] for part in stretches(one, most)]
    rehearsed = [normalise(text).text[:most] for text in rehearsal] + _made(_MADE, _LOOP.seed)
    rehearsed = [text for text in rehearsed if text and not text.isspace()]
    log.info("%d marked texts, %d kept aside; %d that nobody marked", len(learned), len(aside), len(unmarked))
    run.mkdir(parents=True, exist_ok=True)

    watched = [*(one.text for one in aside), *_made(_WATCHED, _LOOP.seed + 1)]
    if torch.cuda.is_available():
        begun.model.cuda()
    before = _predict(torch_forward(begun.model), begun, plan)(watched)
    lessons = list(lessons_of(begun, shown, plan.labels))
    old = list(lessons_of(begun, [OwnText(text, None) for text in rehearsed], plan.labels, shown))
    _widen(begun.model, plan.labels)
    _freeze_lower_half(begun.model)
    _fit(begun, lessons, old, plan, run, made_from, progress)
    begun.model.cpu()

    old_config = json.loads((plan.folder / "config.json").read_text("utf-8"))
    inherited = {f"from/{key}": value for key, value in old_config.get("trained_on", {}).items()}
    begun.model.save(
        out,
        name=plan.name,
        tokenizer_json=begun.tokenizer_json,
        characters=begun.characters,
        trained_on=made_from | inherited,
    )
    export_onnx(out, [lesson.text for lesson in [*lessons[:200], *old[:200]]])
    revision = write_revision(out)

    after = _predict(onnx_forward(out), begun, plan)(watched)
    scores = score_spans(
        [[span for span in found if span.label in plan.labels.marked] for found in after[: len(aside)]],
        [one.spans or () for one in aside],
    )
    return Furthered(
        folder=out,
        revision=revision,
        texts=len(learned),
        kept_aside=len(marked) - len(learned),
        marked=plan.labels.marked,
        f1=scores.micro.f1 if scores.micro.true else None,
        f1_of={label: of.f1 for label, of in scores.by_type.items() if of.true},
        agreement=_agreement(before, after, plan.labels.marked),
        not_taught=not_taught,
    )


def _read_plan(model: str, labels: Path) -> _Plan:
    folder = Path(str(files("worker.ner") / "bundled")) if model == BUNDLED else Path(model)
    if not folder.is_dir():
        raise FileNotFoundError(f"model {model}: no such folder")
    config, read = read_config(folder), read_taxonomy(labels)
    layer = choose_layer(read.layer, config.labels, str(labels), f"model {model}")
    number, old = list(config.layers).index(layer), config.labels[layer]
    new = tuple(label for label in read.fold if label not in old)
    load_taxonomy(str(labels), {**config.labels, layer: (*old, *new)}, f"model {model}")
    marked = read.marked or new
    if not marked:
        raise ValueError(f"{labels}: no label that the model lacks; say which ones the texts mark: marked = [...]")
    if unmarked := [label for label in new if label not in marked]:
        raise ValueError(f"{labels}: {', '.join(unmarked)} is new to the model, and must stand in marked")
    name = config.name + "".join(f"+{label}" for label in new)
    tags = tuple(json.loads((folder / "config.json").read_text("utf-8"))["layers"][number]["tags"])
    wide = LabelLayer(layer, (*tags, *(f"{prefix}-{label}" for label in new for prefix in "BI")))
    return _Plan(folder, name, Labels(number, wide, marked, new), read.fold)


def _made(count: int, seed: int) -> list[str]:
    """Synthetic texts, half of them queries and half reviews, from the words that the package holds."""
    by_hand, unmarked = read_words()
    words = QueryWords(from_corpora={}, by_hand=by_hand, words=unmarked, syllables="")
    random = Random(seed)
    made = [*make_queries(words, count // 2, random), *make_reviews(words, count - count // 2, random)]
    return [sentence.text[:_LONGEST] for sentence in made]


def _predict(forward: Forward, begun: Start, plan: _Plan) -> Predict:
    number = plan.labels.number
    return predictor(forward, begun.encoder, number, begun.model.tag_table(number))


def _widen(model: CharacterTagger, labels: Labels) -> None:
    """Give a classifier rows for the new tags. They begin as a rarer "outside", so that little changes at first."""
    old = cast(nn.Linear, model.classifiers[labels.number])
    new = nn.Linear(old.in_features, len(labels.wide.tags), device=old.weight.device)
    outside = labels.wide.tags.index("O")
    with torch.no_grad():
        new.weight.copy_(old.weight[outside].expand_as(new.weight))
        new.bias.copy_((old.bias[outside] + _RARE).expand_as(new.bias))
        new.weight[: old.out_features] = old.weight
        new.bias[: old.out_features] = old.bias
    model.classifiers[labels.number] = new
    model.moves[labels.number] = nn.Parameter(_widened(model.moves[labels.number].detach(), len(labels.new)))
    stays = model.stays[labels.number].detach()
    model.stays[labels.number] = nn.Parameter(torch.cat([stays, stays.mean().expand(len(labels.new))]))
    model.layers = (*model.layers[: labels.number], labels.wide, *model.layers[labels.number + 1 :])


def _widened(moves: Tensor, more: int) -> Tensor:
    """Transitions with `more` labels before the last state, which is outside: each as the others are on average."""
    labels = len(moves) - 1
    of = [*range(labels), *[labels + 1] * more, labels]  # where each state's transitions come from
    mean = moves[:labels].mean(0, keepdim=True)
    rows = torch.cat([moves, mean])
    whole = torch.cat([rows, rows[:, :labels].mean(1, keepdim=True)], dim=1)
    return whole[of][:, of].clone()


def _freeze_lower_half(model: CharacterTagger) -> None:
    """Few texts can't say anything new of what the pieces are; and the lower half needs no gradients then."""
    layers = model.encoder.encoder.layer
    for part in (model.encoder.embeddings, *layers[: len(layers) // 2]):
        part.requires_grad_(False)


def _fit(
    begun: Start,
    lessons: Sequence[Lesson],
    rehearsed: Sequence[Lesson],
    plan: _Plan,
    run: Path,
    made_from: Mapping[str, str],
    progress: Callable[[Step], None],
) -> None:
    model = begun.model
    inner = [value for value in model.encoder.parameters() if value.requires_grad]
    outer = [value for name, value in model.named_parameters() if not name.startswith("encoder.")]
    optimiser = torch.optim.AdamW(
        [{"params": inner, "peak": _LOOP.encoder_rate}, {"params": outer, "peak": _LOOP.head_rate}],
        weight_decay=_LOOP.weight_decay,
    )
    passes = [list(_batches(lessons, rehearsed, number)) for number in range(_LOOP.passes)]
    steps, done, first, mean = sum(map(len, passes)), 0, 0, 0.0
    if (run / CHECKPOINT).exists():  # only where `resume` let this run begin
        stored: dict[str, Any] = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
        if stored["made_from"] != made_from:
            raise ValueError(f"{run}: holds a run on other data, labels or another model; choose another folder")
        model.load_state_dict(stored["model"])
        optimiser.load_state_dict(stored["optimiser"])
        first = stored["passes"]
        done = sum(map(len, passes[:first]))
    began = time.perf_counter()
    for number in range(first, _LOOP.passes):
        torch.manual_seed(_LOOP.seed + number)
        for batch in passes[number]:
            part = done / steps
            rate = min(part / _LOOP.warm_up, (1 - part) / (1 - _LOOP.warm_up))
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate
            model.train()
            loss = loss_of(begun, batch, plan.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([*inner, *outer], _CLIP)
            optimiser.step()
            optimiser.zero_grad()
            done += 1
            value = float(loss.detach())
            mean = value if mean == 0 else 0.95 * mean + 0.05 * value
            progress(Step(done, steps, done / steps, mean, (time.perf_counter() - began) / 60))
        stored = {
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "passes": number + 1,
            "made_from": made_from,
        }
        torch.save(stored, run / (CHECKPOINT + ".new"))
        (run / (CHECKPOINT + ".new")).replace(run / CHECKPOINT)


def _batches(lessons: Sequence[Lesson], rehearsed: Sequence[Lesson], number: int) -> Iterator[list[Lesson]]:
    """Those of one pass: every lesson, and as many of the rehearsed ones."""
    count = min(max(len(lessons), _REHEARSED), len(rehearsed))
    shown = [*lessons, *Random(_LOOP.seed + number).sample(list(rehearsed), count)]
    random = np.random.default_rng((_LOOP.seed, number))
    for indices in batches([len(lesson.text) for lesson in shown], _LOOP.characters, _LOOP.rows, random):
        yield [shown[index] for index in indices]


def _agreement(
    before: Sequence[Sequence[LabelledSpan]], after: Sequence[Sequence[LabelledSpan]], marked: Sequence[str]
) -> float:
    """Micro F1 of the labels not marked, less the old spans that give way to a marked one; 1 where there are none."""
    others, kept = [], []
    for old, new in zip(before, after, strict=True):
        given = [span for span in new if span.label in marked]
        others.append([span for span in new if span.label not in marked])
        kept.append(
            [
                span
                for span in old
                if span.label not in marked
                and not any(mark.start < span.end and span.start < mark.end for mark in given)
            ]
        )
    micro = score_spans(others, kept).micro
    return micro.f1 if micro.true + micro.found else 1.0
