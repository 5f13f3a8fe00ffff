"""Speed and size of the model by layers and precision, beside `transformers.pipeline` of a base-size model, in one run.

`python benchmarks/model.py --texts reviews.jsonl.gz --plot docs/speed.svg` (the plot needs matplotlib)

Layers are those of the bundled model, left out or repeated: what a forward pass costs does not hang on the weights. The
base-size model (12 x 768, random weights) reads the same pieces. Every configuration is timed once a round, so that all
share what else the machine does; the figures are medians over the rounds.
"""

import argparse
import gzip
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from time import perf_counter

import torch
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast, pipeline

from worker.demo.feed import samples
from worker.ner.bench import bench
from worker.ner.loading import load_engine
from worker.ner.network import ONNX_WEIGHTS, WEIGHTS
from worker.training.export import export_onnx
from worker.training.recipe import read_recipe
from worker.training.start import start_from

ROOT = Path(__file__).parents[1]
BUNDLED = Path(str(files("worker.ner") / "bundled"))
ENGINES = {"int8": "onnxruntime", "float32": "torch"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, help="JSON lines with `text`, gzipped or not; else the demo's reviews")
    parser.add_argument("--count", type=int, default=1000, help="texts that the model reads in a round")
    parser.add_argument("--base-count", type=int, default=100, help="texts that the base-size model reads in a round")
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 6, 8, 12])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="SVG to draw")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    texts = read(arguments.texts)[: arguments.count]
    with tempfile.TemporaryDirectory() as scratch:
        runs: dict[str, Callable[[], float]] = {}
        sizes: dict[str, float] = {}
        for layers in arguments.layers:
            folder = cut(Path(scratch) / str(layers), layers)
            for precision, engine in ENGINES.items():
                name = f"{layers} layers, {precision}"
                loaded = load_engine(str(folder), engine=engine, device="cpu")
                runs[name] = lambda loaded=loaded: bench(loaded, texts).texts_per_second
                sizes[name] = (folder / (ONNX_WEIGHTS if precision == "int8" else WEIGHTS)).stat().st_size / 1e6
        for size in (1, 16):
            runs[f"pipeline, batches of {size}"] = base(texts[: arguments.base_count], size)
        measured = {name: [] for name in runs}
        for number in range(arguments.rounds):
            for name, run in runs.items():
                measured[name].append(run())
                print(f"round {number + 1}: {name}: {measured[name][-1]:.1f} texts/s", file=sys.stderr)
    speeds = {name: statistics.median(found) for name, found in measured.items()}
    fastest = max(speed for name, speed in speeds.items() if name.startswith("pipeline"))
    rows = [
        {"what": name, "texts_per_second": round(speed, 1), "against_pipeline": round(speed / fastest, 1)}
        | ({"megabytes": round(sizes[name], 1)} if name in sizes else {})
        for name, speed in speeds.items()
    ]
    print(json.dumps({"texts": len(texts), "threads": torch.get_num_threads(), "rows": rows}))
    if arguments.plot:
        draw(arguments.plot, arguments.layers, speeds, sizes)


def read(path: Path | None) -> list[str]:
    """The texts of JSON lines."""
    if path is None:
        return [json.loads(one.value)["text"] for one in samples() if one.kind == "review"]
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [text for line in lines if (text := json.loads(line)["text"]).strip()]


def cut(folder: Path, layers: int) -> Path:
    """The bundled model with its first layers, or with its last ones repeated."""
    own = json.loads((BUNDLED / "config.json").read_text("utf-8"))["encoder"]["layers"]
    begun = start_from(
        BUNDLED, [min(n, own - 1) for n in range(layers)], read_recipe(ROOT / "recipes/bundled.toml").loop
    )
    begun.model.save(
        folder, name="cut", tokenizer_json=begun.tokenizer_json, characters=begun.characters, trained_on={}
    )
    export_onnx(folder)
    return folder


def base(texts: Sequence[str], batch_size: int) -> Callable[[], float]:
    """A run of `transformers.pipeline("ner")` over the texts, in texts a second."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(BUNDLED / "tokenizer.json"),
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )
    model = BertForTokenClassification(BertConfig(vocab_size=len(tokenizer), num_labels=13)).eval()
    tagger = pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy="simple", batch_size=batch_size)
    tagger(texts[:4])

    def run() -> float:
        started = perf_counter()
        tagger(list(texts))
        return len(texts) / (perf_counter() - started)

    return run


def draw(path: Path, layers: Sequence[int], speeds: dict[str, float], sizes: dict[str, float]) -> None:
    """Two panels over the layers: texts a second, and megabytes of the weights' file."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "koner"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for panel, values, title in zip(panels, (speeds, sizes), ("texts a second", "megabytes"), strict=True):
        for precision, engine in ENGINES.items():
            at = [values[f"{one} layers, {precision}"] for one in layers]
            panel.plot(layers, at, marker="o", label=f"{precision} ({engine})")
        panel.set(xlabel="layers", title=title, ylim=(0, None), xticks=list(layers))
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
