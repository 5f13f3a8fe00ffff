"""What loads, and that everything that cannot be loaded is one clear line."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from worker.ner import loading
from worker.ner.errors import EngineError, ModelError
from worker.ner.loading import check_engine, load_engine


@pytest.fixture
def copy_of_tagger(tagger_folder, tmp_path):
    return shutil.copytree(tagger_folder, tmp_path / "copy")


def refused(*arguments, **options):
    with pytest.raises(ModelError) as error:
        load_engine(*arguments, **options)
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


def set_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_our_format_runs_on_onnxruntime_on_the_cpu_and_a_checkpoint_on_torch(tagger_folder, checkpoint_folder):
    assert load_engine(str(tagger_folder), device="cpu").info.engine == "onnxruntime"
    assert load_engine(str(tagger_folder), device="cpu", precision="bfloat16").info.engine == "torch"
    assert load_engine(str(checkpoint_folder), device="cpu", taxonomy="own").info.engine == "torch"


def test_a_folder_without_onnx_file_runs_on_torch_unless_onnxruntime_is_asked_for(copy_of_tagger):
    (copy_of_tagger / "model.int8.onnx").unlink()
    assert load_engine(str(copy_of_tagger), device="cpu").info.engine == "torch"
    assert "no model.int8.onnx" in refused(str(copy_of_tagger), engine="onnxruntime")


def test_the_onnx_engine_needs_neither_torch_nor_transformers(tagger_folder):
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'safetensors', 'huggingface_hub'): sys.modules[name] = None\n"
        "from worker.ner.loading import load_engine\n"
        "from worker.ner.annotate import annotate\n"
        f"engine = load_engine({str(tagger_folder)!r})\n"
        "print(engine.info.engine, len(list(annotate(engine, ['이병헌 영화']))))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout == "onnxruntime 1\n", result.stderr


def test_wrong_names(tmp_path, tagger_folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "no such folder" in refused("./nowhere")
    assert "no such folder" in refused(str(tmp_path / "nowhere"))
    assert "no config.json" in refused(str(tmp_path))
    assert "a file" in refused(str(tagger_folder / "config.json"))


def test_a_hub_that_cannot_be_reached(monkeypatch):
    import transformers

    def unreachable(name, **options):
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    message = refused("some-team/some-model", device="cpu", taxonomy="own")
    assert "some-team/some-model" in message
    assert "hub did not give it" in message


def test_a_bundled_model_that_is_missing_or_damaged(monkeypatch, tmp_path, tagger_folder):
    monkeypatch.setattr(loading, "files", lambda package: tmp_path)
    assert "not in this installation" in refused("bundled")
    folder = shutil.copytree(tagger_folder, tmp_path / "bundled")
    assert load_engine("bundled", device="cpu").info.name == "tiny"
    weights = folder / "model.int8.onnx"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "copy the model again" in refused("bundled", device="cpu")


@pytest.mark.parametrize("name", ["tokenizer.json", "characters.json", "model.int8.onnx", "config.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe{"])
def test_damaged_files(copy_of_tagger, name, content):
    path = copy_of_tagger / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert str(copy_of_tagger) in refused(str(copy_of_tagger), engine="onnxruntime", device="cpu")


def test_damaged_torch_weights(copy_of_tagger):
    (copy_of_tagger / "model.safetensors").write_bytes(b"nothing")
    assert "weights cannot be read" in refused(str(copy_of_tagger), engine="torch", device="cpu")
    (copy_of_tagger / "model.safetensors").unlink()
    assert "no model.safetensors" in refused(str(copy_of_tagger), engine="torch", device="cpu")


def test_configs_that_do_not_fit(copy_of_tagger):
    config = json.loads((copy_of_tagger / "config.json").read_text("utf-8"))
    set_config(copy_of_tagger, format="koner-character-tagger/9")
    assert "'koner-character-tagger/9'" in refused(str(copy_of_tagger))
    set_config(copy_of_tagger, format=config["format"], layers=[{"name": "fine", "tags": ["O", "I-PER"]}])
    assert "damaged" in refused(str(copy_of_tagger))
    short = {"moves": [[0, 0], [0, 0]], "stays": [0, 0]}
    bad = {"moves": [[0, 0], [0, float("nan")]], "stays": [0]}
    for transitions in (short, bad, [], "none"):
        layer = {"name": "fine", "tags": ["O", "B-PER", "I-PER"], "transitions": transitions}
        set_config(copy_of_tagger, layers=[layer])
        assert "damaged" in refused(str(copy_of_tagger))
    set_config(copy_of_tagger, layers=[{"name": "third", "tags": ["O", "B-PER", "I-PER"]}])
    assert "no output third" in refused(str(copy_of_tagger), device="cpu", taxonomy="own")
    set_config(copy_of_tagger, layers=[{"name": "fine", "tags": ["O", "B-PER", "I-PER"]}])
    assert "self-check" in refused(str(copy_of_tagger), device="cpu", taxonomy="own")


def test_engines_and_devices_that_do_not_go_together(tagger_folder, checkpoint_folder, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in refused(str(tagger_folder), device="cuda")
    assert "runs on the CPU" in refused(str(tagger_folder), device="cuda", engine="onnxruntime")
    assert "int8" in refused(str(tagger_folder), precision="float16", engine="onnxruntime", device="cpu")
    assert "no ONNX file" in refused(str(checkpoint_folder), engine="onnxruntime")


@pytest.mark.parametrize("option", ["engine", "device", "precision"])
def test_a_word_that_means_nothing(tagger_folder, option):
    assert f"{option} fastest: not one of auto" in refused(str(tagger_folder), **{option: "fastest"})


def test_torch_that_is_not_installed(tagger_folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    assert "koner-stream[torch]" in refused(str(tagger_folder), engine="torch")
    assert load_engine(str(tagger_folder)).info.device == "cpu"


def test_checkpoints_whose_labels_do_not_fit(checkpoint_folder, checkpoint_of, tmp_path):
    assert "PS, LC" in refused(str(checkpoint_folder), device="cpu")
    unnamed = checkpoint_of(tmp_path / "unnamed", ("LABEL_0", "LABEL_1"))
    assert "LABEL_0, LABEL_1" in refused(str(unnamed), device="cpu", taxonomy="own")


def test_a_checkpoint_with_a_taxonomy_file_gives_the_teams_types(checkpoint_folder, tmp_path):
    path = tmp_path / "team.toml"
    path.write_text('dropped = ["LC"]\n[types]\nPS = "person"\n', "utf-8")
    engine = load_engine(str(checkpoint_folder), device="cpu", taxonomy=str(path))
    assert engine.info.taxonomy == "team"


def test_a_checkpoints_revision_follows_its_weights(checkpoint_folder, checkpoint_of, tmp_path):
    labels = ("O", "B-PS", "I-PS", "B-LC", "I-LC")
    same = load_engine(str(checkpoint_of(tmp_path / "same", labels)), device="cpu", taxonomy="own")
    other = load_engine(str(checkpoint_of(tmp_path / "other", labels, positions=50)), device="cpu", taxonomy="own")
    first = load_engine(str(checkpoint_folder), device="cpu", taxonomy="own")
    assert first.info.revision == same.info.revision != other.info.revision


def test_a_checkpoint_without_some_of_its_weights(checkpoint_folder, tmp_path):
    for missing in ("classifier", "attention"):
        folder = shutil.copytree(checkpoint_folder, tmp_path / missing)
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if missing not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        message = refused(str(folder), taxonomy="own", device="cpu")
        assert "its weights lack" in message
        assert f"({len(weights) - len(kept)} in all)" in message


def test_a_checkpoint_whose_labels_do_not_count_from_0(checkpoint_folder, tmp_path):
    folder = shutil.copytree(checkpoint_folder, tmp_path / "copy")
    set_config(
        folder, id2label={str(number): name for number, name in enumerate(("O", "B-PS", "I-PS", "B-LC", "X"), 1)}
    )
    assert "must count from 0" in refused(str(folder), taxonomy="own", device="cpu")


def test_a_checkpoint_without_tokenizer(checkpoint_folder, tmp_path):
    folder = shutil.copytree(checkpoint_folder, tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert str(folder) in refused(str(folder), device="cpu", taxonomy="own")


def test_the_self_check_refuses_an_engine_that_fails():
    class Broken:
        def encode(self, texts):
            raise EngineError("no kernel for this device")

    with pytest.raises(ModelError, match=r"model x failed its self-check: EngineError: no kernel"):
        check_engine(Broken(), "x")
