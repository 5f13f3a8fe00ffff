"""Small models of every kind that can be loaded; their weights are random, so they find spans without meaning."""

from pathlib import Path

import pytest
import torch
from model_folder import CHARACTERS, make_model_folder
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from worker.ner.loading import load_engine


def make_checkpoint(path: Path, labels: tuple[str, ...], positions: int = 48) -> Path:
    """A Hugging Face checkpoint: BERT over word pieces."""
    torch.manual_seed(1)
    letters = dict.fromkeys(CHARACTERS.replace(" ", ""))
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *letters,
        *(f"##{letter}" for letter in letters),
        "이병헌",
        "##병헌",
    ]
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=5000))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=positions,
    ).save_pretrained(path)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tagger_folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("tagger"))


@pytest.fixture(scope="session")
def checkpoint_of():
    """Makes a checkpoint folder: `checkpoint_of(path, labels)`."""
    return make_checkpoint


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), ("O", "B-PS", "I-PS", "B-LC", "I-LC"))


@pytest.fixture(scope="session", params=["onnxruntime", "torch", "checkpoint"])
def engine(request, tagger_folder, checkpoint_folder):
    if request.param == "checkpoint":
        return load_engine(str(checkpoint_folder), taxonomy="own", device="cpu", threads=1)
    return load_engine(str(tagger_folder), engine=request.param, taxonomy="own", device="cpu", threads=1)
