"""Checkpoints of other kinds: positions that begin late, pieces of bytes, pieces with word marks."""

import torch
from model_folder import CHARACTERS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForTokenClassification

from worker.ner.loading import load_engine

LABELS = ("O", "B-PS", "I-PS", "B-LC", "I-LC")
LONG = "이병헌은 영화를 👍🏽 좋아요 " * 60


def make_roberta(path, tokenizer, positions=40):
    """RoBERTa counts positions from the padding's id on, so two of its 40 are never used."""
    torch.manual_seed(2)
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        pad_token_id=1,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model = XLMRobertaForTokenClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    model.save_pretrained(path)
    return load_engine(str(path), device="cpu", taxonomy="own", threads=1)


def with_frame(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer


def byte_pieces():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {piece: index for index, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return with_frame(tokenizer)


def marked_pieces():
    letters = dict.fromkeys(CHARACTERS.replace(" ", ""))
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁이", "병헌은", *letters]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 - i / 100) for i, piece in enumerate(pieces)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return with_frame(tokenizer)


def entities_of(engine, text):
    (encoded,) = engine.encode([text])
    assert len(encoded.windows) > 5
    assert all(window.tokens <= 38 for window in encoded.windows)
    return engine.assemble(encoded, engine.forward(encoded.windows))


def assert_exact(text, entities):
    assert entities
    edges = [edge for entity in entities for edge in (entity.start, entity.end)]
    assert edges == sorted(edges)
    for entity in entities:
        assert text[entity.start : entity.end] == entity.text
        assert entity.text == entity.text.strip() != ""


def test_pieces_of_bytes_give_whole_characters(tmp_path):
    assert_exact(LONG, entities_of(make_roberta(tmp_path, byte_pieces()), LONG))


def test_pieces_with_word_marks_give_words_without_their_spaces(tmp_path):
    assert_exact(LONG, entities_of(make_roberta(tmp_path, marked_pieces()), LONG))
