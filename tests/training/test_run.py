"""`train` from a recipe and a data folder to a model folder, in small."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_corpus import write_data_folder

from worker.ner.decoding import best_tags, decode
from worker.ner.encoding import CharacterEncoder
from worker.ner.model_config import read_config
from worker.ner.network import CharacterTagger
from worker.training.corpora import read_gold
from worker.training.evaluation import evaluate
from worker.training.examples import Example
from worker.training.export import export_onnx, onnx_forward
from worker.training.gather import gather
from worker.training.labels import FINE, LAYERS, UNLABELLED
from worker.training.recipe import read_recipe
from worker.training.run import train
from worker.training.tagging import predictor, torch_forward
from worker.training.teach import teacher_of, without_doubtful

RECIPE = Path(__file__).parent / "tiny.toml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    steps = []
    out = tmp_path_factory.mktemp("models") / "out"
    return train(RECIPE, out, data=data, progress=steps.append), steps


def test_training_learns_the_sentences_it_is_shown(trained, data):
    result, steps = trained
    assert steps[-1].step == steps[-1].steps
    assert steps[-1].loss < steps[0].loss
    model, encoder = CharacterTagger.from_folder(result.folder), CharacterEncoder.from_folder(result.folder)
    scores = evaluate(
        predictor(torch_forward(model), encoder, 0, model.tag_table(0)),
        read_gold(data / "klue_ner_dev_b.jsonl", "fine"),
    )
    assert scores.micro.f1 > 0.5


def test_the_model_folder_has_every_file_and_says_what_it_was_trained_on(trained):
    result, _ = trained
    names = {path.name for path in result.folder.iterdir()} - {"run"}
    assert names == {"config.json", "tokenizer.json", "characters.json", "model.safetensors", "model.int8.onnx"}
    config = json.loads((result.folder / "config.json").read_text("utf-8"))
    assert config["revision"] == result.revision
    assert config["layers"][0]["tags"][:3] == ["O", "B-PER", "I-PER"]
    assert {"recipe", "data/klue_ner_train.jsonl"} <= set(config["trained_on"])


def test_transitions_are_learned_and_the_engines_decode_with_them(trained):
    result, _ = trained
    model, config = CharacterTagger.from_folder(result.folder), read_config(result.folder)
    for number, name in enumerate(("fine", "klue")):
        learned, read = model.tag_table(number).transitions, config.layers[name].transitions
        assert abs(learned.moves).max() > 0.05
        assert (learned.moves == read.moves).all()
        assert (learned.stays == read.stays).all()


def test_without_a_rate_for_them_there_are_no_transitions(data, tmp_path):
    recipe = tmp_path / "plain.toml"
    recipe.write_text(RECIPE.read_text("utf-8").replace("transition_rate = 1e-2", "transition_rate = 0"), "utf-8")
    result = train(recipe, tmp_path / "out", data=data)
    assert "transitions" not in (result.folder / "config.json").read_text("utf-8")


def test_both_kinds_of_weights_find_nearly_the_same_spans(trained, data):
    result, _ = trained
    encoder = CharacterEncoder.from_folder(result.folder)
    texts = [text for text, _ in read_gold(data / "klue_ner_dev_b.jsonl", "klue")]
    model = CharacterTagger.from_folder(result.folder)
    floating = predictor(torch_forward(model), encoder, 1, model.tag_table(1))(texts)
    integer = predictor(onnx_forward(result.folder), encoder, 1, model.tag_table(1))(texts)
    both = sum(len(set(a) & set(b)) for a, b in zip(floating, integer, strict=True))
    assert both >= 0.9 * max(sum(map(len, floating)), sum(map(len, integer)))


def test_a_cut_run_taken_up_again_ends_in_the_same_weights(trained, data, tmp_path):
    class Cut(Exception):
        pass

    def cut_at_step_nine(step):
        if step.step == 9:
            raise Cut

    with pytest.raises(Cut):
        train(RECIPE, tmp_path / "cut", data=data, progress=cut_at_step_nine)
    resumed = train(RECIPE, tmp_path / "cut", data=data, resume=True)
    whole = CharacterTagger.from_folder(trained[0].folder).state_dict()
    for name, value in CharacterTagger.from_folder(resumed.folder).state_dict().items():
        torch.testing.assert_close(value, whole[name], msg=name)
    scores = (tmp_path / "cut" / "run" / "scores.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["pass"] for line in scores] == [1, 2, 3]  # none twice


def test_a_run_is_not_taken_up_by_another_recipe_or_on_other_data(trained, data, tmp_path):
    folder = shutil.copytree(trained[0].folder, tmp_path / "copy")
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.read_text("utf-8").replace("passes = 3", "passes = 4"), "utf-8")
    with pytest.raises(ValueError, match="holds a run on another recipe; choose another folder"):
        train(other, folder, data=data, resume=True)
    more = shutil.copytree(data, tmp_path / "data")
    with (more / "utterances.txt").open("a", encoding="utf-8") as lines:
        print("불 좀 켜줘", file=lines)
    with pytest.raises(ValueError, match=r"on another data/utterances\.txt"):
        train(RECIPE, folder, data=more, resume=True)


def test_a_folder_with_a_run_is_not_overwritten(trained, data):
    with pytest.raises(FileExistsError, match="--resume"):
        train(RECIPE, trained[0].folder, data=data)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"klue_ner_train\.jsonl"):
        train(RECIPE, tmp_path / "out", data=tmp_path)


def test_a_student_keeps_the_layers_named_and_learns_from_its_teacher(trained, data, tmp_path):
    recipe = student_recipe(tmp_path)
    labelled = []
    result = train(recipe, tmp_path / "student", data=data, teachers=[trained[0].folder], labelling=labelled.append)
    assert labelled == sorted(labelled)
    assert labelled[-1] == 1
    student = CharacterTagger.from_folder(result.folder)
    assert student.encoder_shape.layers == 1
    assert len(CharacterTagger.from_folder(trained[0].folder).encoder.encoder.layer) == 2
    encoder = CharacterEncoder.from_folder(result.folder)
    scores = evaluate(
        predictor(torch_forward(student), encoder, 0, student.tag_table(0)),
        read_gold(data / "klue_ner_dev_b.jsonl", "fine"),
    )
    assert scores.micro.f1 > 0.5


def test_a_student_keeps_a_share_of_the_weights_it_began_with(trained, data, tmp_path):
    recipe = student_recipe(tmp_path)
    started = CharacterTagger.from_folder(trained[0].folder).moves[0].detach()
    moves = {}
    for share in (0.0, 0.25):
        recipe.write_text(recipe.read_text("utf-8").replace("start_share = 0.0", f"start_share = {share}"), "utf-8")
        result = train(recipe, tmp_path / f"of-{share}", data=data, teachers=[trained[0].folder])
        moves[share] = CharacterTagger.from_folder(result.folder).moves[0].detach()
    torch.testing.assert_close(moves[0.25], 0.75 * moves[0.0] + 0.25 * started, atol=2e-4, rtol=0)
    assert (moves[0.0] - started).abs().max() > 0.05


def test_a_recipe_trains_its_teachers_first_each_of_them_once(data, tmp_path, caplog):
    student = student_recipe(tmp_path)
    last = tmp_path / "last.toml"
    two = student.read_text("utf-8").replace('["tiny.toml"]', '["student.toml", "tiny.toml"]')
    last.write_text(two.replace("layers = [1]", "layers = [0]"), "utf-8")
    with caplog.at_level("INFO", logger="worker.training.run"):
        result = train(last, tmp_path / "last", data=data)
    teachers = result.folder / "run" / "teachers"
    shapes = {folder.name: CharacterTagger.from_folder(folder).encoder_shape.layers for folder in teachers.iterdir()}
    assert shapes == {"student": 1, "tiny": 2}
    begun = [record.getMessage() for record in caplog.records if "training the teacher" in record.getMessage()]
    assert begun == ["training the teacher student.toml", "training the teacher tiny.toml"]
    by_teacher = json.loads((result.folder / "config.json").read_text("utf-8"))["trained_on"]
    assert by_teacher["teacher-1"] != by_teacher["teacher-2"]
    student.write_text(student.read_text("utf-8").replace("passes = 3", "passes = 2"), "utf-8")
    with pytest.raises(ValueError, match="student: is a teacher made from another recipe; choose another folder"):
        train(last, result.folder, data=data, resume=True)


def test_a_layer_that_the_teacher_lacks_is_an_error(trained, data, tmp_path):
    with pytest.raises(ValueError, match="layers 0 to 1"):
        train(student_recipe(tmp_path, layers=[2]), tmp_path / "student", data=data, teachers=[trained[0].folder])


def test_a_teacher_labels_every_character(trained, tmp_path):
    examples = [Example(text, np.zeros(len(text)), np.zeros(len(text))) for text in ("짧다", "조금 더 긴 글이다", "가")]
    taught = teacher_of([trained[0].folder], tmp_path)(examples)
    assert [example.text for example in taught] == [example.text for example in examples]
    for example in taught:
        assert [logits.shape for logits in example.taught] == [(len(example.text), len(layer.tags)) for layer in LAYERS]


def test_a_teacher_labels_no_text_twice(trained, tmp_path):
    parts = []
    teach = teacher_of([trained[0].folder], tmp_path, progress=parts.append)

    def example(text):
        return Example(text, np.zeros(len(text), np.int16), np.zeros(len(text), np.int16))

    first = teach([example("짧다"), example("조금 더 긴 글이다")])
    assert parts
    assert parts[-1] == 1
    parts.clear()
    again = teach([example("조금 더 긴 글이다"), example("짧다")])
    assert parts == []
    for ours, theirs in zip(again[1].taught, first[0].taught, strict=True):
        assert np.array_equal(ours, theirs)
    teach([example("짧다"), example("새 글")])
    assert parts == [1]


def test_a_crf_as_a_teacher_gives_the_probabilities_that_its_spans_are_scored_by(trained, data, tmp_path):
    folder = tmp_path / "crf"
    shutil.copytree(trained[0].folder, folder, ignore=shutil.ignore_patterns("run"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    moves = config["layers"][0]["transitions"]["moves"]
    for row in moves:
        row[-1] -= 1.5  # outside is unlikely: a character's own softmax says less than half of it
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    encoder, forward, tags = (
        CharacterEncoder.from_folder(folder),
        onnx_forward(folder),
        read_config(folder).layers["fine"],
    )
    apart = 0.0
    for text, _ in read_gold(data / "klue_ner_dev_b.jsonl", "fine")[:5]:
        outside = np.zeros(len(text), np.int16)
        (example,) = teacher_of([folder], tmp_path)([Example(text, outside, outside)])
        taught = np.exp(example.taught[0].astype(np.float64))
        logits = np.asarray(forward(encoder.collate(encoder.encode([text])))[0])
        chosen = best_tags(logits, np.ones((1, len(text)), bool), tags)[0]
        (spans,) = decode(logits, np.array([len(text)]), tags)
        assert spans
        for span in spans:
            places = np.arange(span.start, span.end)
            assert taught[places, chosen[places]].mean() == pytest.approx(span.score, abs=2e-3)
        softmax = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
        apart = max(apart, float(np.abs(taught - softmax).max()))
    assert apart > 0.1


def test_several_teachers_give_the_mean_of_their_probabilities(trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained[0].folder, other, ignore=shutil.ignore_patterns("run"))
    tagger = CharacterTagger.from_folder(other)
    with torch.no_grad():
        tagger.classifiers[0].bias += torch.linspace(-1, 1, len(FINE.tags))
    written = json.loads((other / "config.json").read_text("utf-8"))
    characters = json.loads((other / "characters.json").read_text("utf-8"))["characters"]
    tagger.save(
        other,
        name=written["name"],
        tokenizer_json=(other / "tokenizer.json").read_text("utf-8"),
        characters=characters,
        trained_on={},
    )
    export_onnx(other)
    example = Example("송강호", np.zeros(3, np.int16), np.zeros(3, np.int16))
    folders = [trained[0].folder, other]
    likely = []
    for teachers in (folders[:1], folders[1:], folders):
        (taught,) = teacher_of(teachers, tmp_path)([example])
        logits = taught.taught[0].astype(np.float64)
        likely.append(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    assert np.abs(likely[0] - likely[1]).max() > 0.01
    assert np.allclose(likely[2], (likely[0] + likely[1]) / 2, atol=2e-3)


def test_a_wrong_number_of_teachers_is_an_error(trained, data, tmp_path):
    folder = trained[0].folder
    with pytest.raises(ValueError, match="takes 1 teachers, and 2 are given"):
        train(student_recipe(tmp_path), tmp_path / "student", data=data, teachers=[folder, folder])
    with pytest.raises(ValueError, match="takes 0 teachers, and 1 are given"):
        train(RECIPE, tmp_path / "plain", data=data, teachers=[folder])


def test_a_label_that_the_teacher_doubts_is_left_out_of_the_loss():
    logits = np.zeros((3, len(FINE.tags)), np.float16)
    logits[:, FINE.tags.index("B-PER")] = 9
    tags = np.array([FINE.tags.index("B-PER"), 0, UNLABELLED], np.int16)
    example = Example("가나다", tags, np.zeros(3, np.int16), (logits, logits))
    assert without_doubtful(example, 0.1).fine.tolist() == [tags[0], UNLABELLED, UNLABELLED]
    assert without_doubtful(example, 1e-6).fine.tolist() == tags.tolist()


def test_texts_marked_by_hand_are_learned_but_for_those_of_the_evaluation_sets(data, tmp_path):
    for name, text in (
        ("by_hand", "멜로 추천"),
        ("by_hand", "기생충 결말"),
        ("by_hand", "CGV 신촌"),
        ("never", "멜로 추천"),
        ("never", "cgv신촌"),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        line = {"text": text, "entities": [{"start": 0, "end": len(text.split()[0]), "label": "WORK"}]}
        with (tmp_path / name / "own.jsonl").open("a", encoding="utf-8") as lines:
            print(json.dumps(line, ensure_ascii=False), file=lines)
    plan = replace(read_recipe(RECIPE).data, by_hand_copies=3)
    gathered = gather(data, plan, 1, tmp_path / "never", tmp_path / "by_hand")
    assert [example.text for example in gathered.by_hand] == ["기생충 결말"]
    assert gathered.by_hand[0].fine.tolist()[:4] == [*[FINE.tags.index("B-WORK")], *[FINE.tags.index("I-WORK")] * 2, 0]
    assert set(gathered.by_hand[0].klue.tolist()) == {UNLABELLED}
    assert [example.text for example in gathered.examples(plan, 1)].count("기생충 결말") == 3
    assert "own.jsonl" in gathered.hashes
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no texts marked by hand"):
        gather(data, plan, 1, None, tmp_path / "empty")
    (tmp_path / "empty" / "own.jsonl").touch()
    with pytest.raises(ValueError, match="no texts in it"):
        gather(data, plan, 1, None, tmp_path / "empty")


def student_recipe(folder, layers=(1,)):
    """The tiny recipe with itself as the teacher, in `folder`."""
    (folder / "tiny.toml").write_text(RECIPE.read_text("utf-8"), "utf-8")
    head, _, rest = RECIPE.read_text("utf-8").partition("[model]")
    rest = rest.partition("[data]")[2].replace("unlabelled_reviews = 0", "unlabelled_reviews = 5")
    keys = f'recipes = ["tiny.toml"]\nlayers = {list(layers)}\nweight = 0.5\ntemperature = 1.0\n'
    teacher = f"[teacher]\n{keys}start_share = 0.0\ndoubt = 0.05\n\n[data]"
    (folder / "student.toml").write_text(head + teacher + rest, "utf-8")
    return folder / "student.toml"
