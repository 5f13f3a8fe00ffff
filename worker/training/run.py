"""`koner train`: from a recipe to a model folder."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Final

import torch
from torch import Tensor

from worker.ner.network import ONNX_WEIGHTS, WEIGHTS, CharacterTagger, write_revision
from worker.training.evaluation import SpanScores, evaluate
from worker.training.export import export_onnx, onnx_forward
from worker.training.gather import TrainingData, character_table, gather
from worker.training.loop import Step, Trainer
from worker.training.queries import make_queries
from worker.training.recipe import Recipe, read_recipe
from worker.training.start import Start, start, start_from
from worker.training.tagging import Forward, predictor, torch_forward
from worker.training.teach import teacher_of

log = logging.getLogger(__name__)
RUN_FOLDER: Final = "run"  # inside `out`: the checkpoint and the scores along the way
TEACHERS_FOLDER: Final = "teachers"  # inside the run folder: a model folder for each recipe that was trained before


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run made: the folder, and micro F1 of the eleven labels on the sentences kept aside."""

    folder: Path
    revision: str
    f1: float
    f1_int8: float


def train(
    recipe: Path,
    out: Path,
    *,
    data: Path | None = None,
    base: Path | None = None,
    teachers: Sequence[Path] = (),
    resume: bool = False,
    progress: Callable[[Step], None] = lambda step: None,
    labelling: Callable[[float], None] = lambda part: None,
) -> Trained:
    """Train by `recipe` and write the model folder `out`; `out/run` keeps the checkpoint that `resume` takes up.

    `data` and `base` stand in for the recipe's own paths, which are relative to the recipe's folder. A recipe with
    teachers trains those first, and theirs before them, each recipe once, in `out/run/teachers`, unless the model
    folders `teachers` are given. `labelling` gets the part of the texts that a teacher has labelled, before training.
    Raises OSError for a file that isn't there, ValueError for a wrong recipe, wheel or number of teachers, and
    FileExistsError if `out` holds a run and `resume` is False.
    """
    inputs = _Inputs(data, base, out / RUN_FOLDER / TEACHERS_FOLDER, progress, labelling)
    return _train(recipe, out, inputs, teachers, resume)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a run and those of its teachers have in common."""

    data: Path | None
    base: Path | None
    teachers: Path  # where recipes that come before are trained, each in a folder of its name
    progress: Callable[[Step], None]
    labelling: Callable[[float], None]


def _train(recipe: Path, out: Path, inputs: _Inputs, teachers: Sequence[Path], resume: bool) -> Trained:
    plan, code = read_recipe(recipe), code_sha256()
    wanted = len(plan.teacher.recipes) if plan.teacher else 0
    if teachers and len(teachers) != wanted:
        raise ValueError(f"{recipe}: takes {wanted} teachers, and {len(teachers)} are given")
    run = out / RUN_FOLDER
    if run.exists() and not resume:
        raise FileExistsError(f"{run}: holds an earlier run; take it up with --resume, or choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    never = recipe.parent / plan.data.never if plan.data.never else None
    by_hand = recipe.parent / plan.data.by_hand if plan.data.by_hand else None

    def gathered_now() -> TrainingData:
        return gather(inputs.data or recipe.parent / plan.data.folder, plan.data, plan.loop.seed, never, by_hand)

    if plan.teacher and not teachers:
        # What is wrong with the data is said before hours of training; it is held only after them.
        hashes = gathered_now().hashes
        teachers = [_trained(recipe.parent / name, hashes, inputs) for name in plan.teacher.recipes]
    gathered = gathered_now()
    made_from = {"recipe": plan.sha256, "code": code} | _named(gathered.hashes)
    for number, teacher in enumerate(teachers, 1):
        made_from[f"teacher-{number}"] = file_sha256(teacher / WEIGHTS)
    log.info("%d sentences and %d MultiCoNER ones", len(gathered.always), len(gathered.multiconer))
    if plan.teacher:
        begun = start_from(teachers[0], plan.teacher.layers, plan.loop)
        log.info("labelling with the teachers %s", ", ".join(map(str, teachers)))
        gathered = gathered.taught(teacher_of(teachers, run, plan.teacher.doubt, inputs.labelling))
    elif plan.model:
        wheel = inputs.base or (recipe.parent / plan.model.base if plan.model.base else None)
        begun = start(plan.model, plan.loop, wheel, gathered.texts, character_table(gathered.texts))
        made_from |= {"base": file_sha256(wheel)} if wheel else {}
    log.info("%d pieces, %d characters", begun.model.encoder_shape.vocabulary, len(begun.characters))
    share = plan.teacher.start_share if plan.teacher else 0.0
    start_weights = {name: weight.clone() for name, weight in begun.model.state_dict().items()} if share else {}
    _fit(plan, begun, gathered, made_from, run, resume, inputs.progress)
    if share:
        _average(begun.model, start_weights, share)
    return _write(plan, begun, gathered, made_from, out)


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _named(hashes: Mapping[str, str]) -> dict[str, str]:
    return {f"data/{name}": digest for name, digest in hashes.items()}


def _trained(recipe: Path, hashes: Mapping[str, str], inputs: _Inputs) -> Path:
    """The folder of a recipe that comes before; trained now, unless it has been.

    `hashes` are the data's. Raises ValueError where the folder holds what another recipe, or other data, made.
    """
    folder = inputs.teachers / recipe.stem
    if (folder / ONNX_WEIGHTS).exists():
        made_from = json.loads((folder / "config.json").read_text("utf-8"))["trained_on"]
        wanted = {"recipe": read_recipe(recipe).sha256} | _named(hashes)
        wanted |= {"base": file_sha256(inputs.base)} if inputs.base else {}
        others = sorted(name for name, digest in wanted.items() if made_from.get(name, digest) != digest)
        if others:
            raise ValueError(f"{folder}: is a teacher made from another {', '.join(others)}; choose another folder")
    else:
        log.info("training the teacher %s", recipe.name)
        _train(recipe, folder, inputs, (), resume=folder.exists())
    return folder


def _fit(
    plan: Recipe,
    begun: Start,
    gathered: TrainingData,
    made_from: Mapping[str, str],
    run: Path,
    resume: bool,
    progress: Callable[[Step], None],
) -> None:
    if torch.cuda.is_available():
        begun.model.cuda()
    trainer = Trainer(
        begun.model,
        begun.encoder,
        lambda number: gathered.examples(plan.data, plan.loop.seed + number),
        plan.loop,
        plan.noise,
        made_from,
        plan.teacher,
    )
    if resume and trainer.resume(run):
        log.info("taking up the checkpoint in %s", run)

    def after_pass(number: int) -> None:
        scores = _score(torch_forward(begun.model), begun, gathered)
        log.info("pass %d: F1 %.4f micro, %.4f macro on dev_a's kept-aside sentences", number + 1, *_both(scores))
        with (run / "scores.jsonl").open("a", encoding="utf-8") as lines:
            by_type = {label: round(score.f1, 4) for label, score in scores.by_type.items()}
            print(json.dumps({"pass": number + 1, "micro": scores.micro.f1, "by_type": by_type}), file=lines)

    trainer.fit(run, progress, after_pass)
    begun.model.cpu()


def _average(model: CharacterTagger, start_weights: Mapping[str, Tensor], share: float) -> None:
    """Give the model the mean of its weights and those it began with.

    It keeps more of what it could before (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    """
    model.load_state_dict(
        {name: torch.lerp(weight, start_weights[name], share) for name, weight in model.state_dict().items()}
    )


def _write(plan: Recipe, begun: Start, gathered: TrainingData, made_from: Mapping[str, str], out: Path) -> Trained:
    begun.model.save(
        out, name=plan.name, tokenizer_json=begun.tokenizer_json, characters=begun.characters, trained_on=made_from
    )
    export_onnx(out, _usual_texts(plan, gathered))
    revision = write_revision(out)
    scores = _score(torch_forward(begun.model), begun, gathered)
    scores_int8 = _score(onnx_forward(out), begun, gathered)
    log.info("F1 %.4f micro, int8 %.4f", scores.micro.f1, scores_int8.micro.f1)
    return Trained(out, revision, scores.micro.f1, scores_int8.micro.f1)


def _usual_texts(plan: Recipe, gathered: TrainingData) -> list[str]:
    """Some texts of each kind that the model is for."""
    made = make_queries(gathered.words, 100, Random(plan.loop.seed))
    texts = [sentence.text for sentence in [*gathered.kept_aside[:100], *made]]
    return texts + [example.text for example in gathered.reviews[:100]]


def code_sha256() -> str:
    """The SHA-256 over the files of the two rooms that decide what training makes."""
    digest = hashlib.sha256()
    for room in ("worker.ner", "worker.training"):
        for path in sorted(Path(str(files(room))).rglob("*.*")):
            if path.suffix in (".py", ".toml", ".txt"):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _score(forward: Forward, begun: Start, gathered: TrainingData) -> SpanScores:
    pairs = [(sentence.text, sentence.fine or ()) for sentence in gathered.kept_aside]
    return evaluate(predictor(forward, begun.encoder, 0, begun.model.tag_table(0)), pairs)


def _both(scores: SpanScores) -> tuple[float, float]:
    return scores.micro.f1, scores.macro_f1
