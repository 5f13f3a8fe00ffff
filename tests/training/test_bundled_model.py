"""The bundled model: whole, small enough, and the same in both of its forms."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from worker.ner.encoding import CharacterEncoder
from worker.ner.network import CharacterTagger, write_revision
from worker.training.evaluation import score_spans
from worker.training.export import onnx_forward
from worker.training.labels import LAYERS, LabelledSpan
from worker.training.tagging import predictor, torch_forward

FOLDER = Path(str(files("worker.ner") / "bundled"))
SETS = Path(__file__).parents[1] / "data" / "evaluation"
TEXTS = [
    "이병헌은 2009년 서울에서 영화를 봤다.",
    "이제훈 박열",
    "2만원 미만 무선이어폰",
    "넷플릭스 스릴러 추천",
    "90년대 홍콩 느와르",
    "정말 재밌게 봤어요ㅋㅋㅋ 시간 가는 줄 몰랐네",
    "오드리 헵번 로마의 휴일",
    "칸 영화제 황금종려상",
    "삼성전자는 지난해 3분기 매출이 20% 늘었다고 26일 밝혔다.",
    "",
]


@pytest.fixture(scope="module")
def encoder():
    return CharacterEncoder.from_folder(FOLDER)


@pytest.fixture(scope="module")
def model():
    return CharacterTagger.from_folder(FOLDER)


@pytest.fixture(scope="module")
def integer(encoder, model):
    return predictor(onnx_forward(FOLDER, 1), encoder, 0, model.tag_table(0))(TEXTS)


def forms(text, spans):
    return [(text[span.start : span.end], span.label) for span in spans]


def test_it_finds_what_it_should(integer):
    assert forms(TEXTS[0], integer[0]) == [("이병헌", "PER"), ("2009년", "DATE"), ("서울", "LOC")]
    assert ("이제훈", "PER") in forms(TEXTS[1], integer[1])
    assert forms(TEXTS[2], integer[2]) == [("2만원", "MONEY")]
    assert forms(TEXTS[3], integer[3]) == [("넷플릭스", "ORG")]
    assert forms(TEXTS[5], integer[5]) == []
    assert ("오드리 헵번", "PER") in forms(TEXTS[6], integer[6])


def test_both_forms_of_the_weights_find_nearly_the_same(encoder, model, integer):
    floating = predictor(torch_forward(model), encoder, 0, model.tag_table(0))(TEXTS)
    same = sum(len(set(a) & set(b)) for a, b in zip(integer, floating, strict=True))
    assert same >= 0.9 * max(sum(map(len, integer)), sum(map(len, floating)))


def test_the_forms_differ_in_few_spans_of_the_evaluation_sets_and_score_alike(encoder, model):
    rows = [json.loads(line) for path in sorted(SETS.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    texts = [row["text"] for row in rows]
    true = [[LabelledSpan(one["start"], one["end"], one["label"]) for one in row["entities"]] for row in rows]
    integer = predictor(onnx_forward(FOLDER), encoder, 0, model.tag_table(0))(texts)
    floating = predictor(torch_forward(model), encoder, 0, model.tag_table(0))(texts)
    alike = score_spans(integer, floating).micro
    print(f"{alike.found + alike.true - 2 * alike.right} of {alike.found + alike.true} spans stand in one form only")
    assert alike.f1 > 0.93
    difference = score_spans(integer, true).micro.f1 - score_spans(floating, true).micro.f1
    assert abs(difference) < 0.015


def test_it_fits_in_sixty_megabytes_and_its_revision_is_its_weights(tmp_path):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 60e6
    for name in ("config.json", "model.safetensors", "model.int8.onnx"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    assert write_revision(tmp_path) == json.loads((FOLDER / "config.json").read_text("utf-8"))["revision"]


def test_its_labels_are_the_ones_that_training_knows():
    config = json.loads((FOLDER / "config.json").read_text("utf-8"))
    assert [(layer["name"], tuple(layer["tags"])) for layer in config["layers"]] == [(x.name, x.tags) for x in LAYERS]
