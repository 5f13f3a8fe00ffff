"""A tagger in hand predicts each text on its own, in the texts' order."""

import pytest
from model_folder import make_model_folder

from worker.ner.encoding import CharacterEncoder
from worker.ner.network import CharacterTagger
from worker.training.tagging import predictor, torch_forward


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    folder = make_model_folder(tmp_path_factory.mktemp("model"))
    model = CharacterTagger.from_folder(folder)
    return predictor(torch_forward(model), CharacterEncoder.from_folder(folder), 0, model.tag_table(0))


def test_spans_do_not_depend_on_the_other_texts_or_their_order(predict):
    texts = ["이병헌은 영화 좋아요", "", "서울 부산", " ㅋㅋ "]
    together = predict(texts)
    assert [predict([text])[0] for text in texts] == together
    assert predict(texts[::-1]) == together[::-1]
    assert together[1] == []
    assert any(together)
