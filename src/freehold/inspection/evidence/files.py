"""What the files themselves show: weights, code, papers, checkpoints and arguments of training, results."""

import re
from collections.abc import Iterable, Iterator

from freehold.inspection.artefacts import Artefacts, File
from freehold.inspection.evidence.facts import Fact, Standing
from freehold.inspection.figures import in_bytes
from freehold.inspection.findings import Evidence

MAX_NAMED = 3  # files that are named as evidence; a large model has hundreds

_WEIGHTS = re.compile(r"\.(safetensors|gguf|bin|pth?|ckpt|msgpack|h5|onnx|npz)$", re.IGNORECASE)
_NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|rng_state|tokenizer)[^/]*$", re.IGNORECASE)
_INTERMEDIATE = re.compile(r"(^|/)(checkpoint-\d+|step[_-]?\d+[^/]*)/")
# By topic, what a file is called that carries it.
_BY_NAME = {
    "model_architecture": re.compile(r"(^|/)model(l?ing)?(_[\w.]+)?\.(py|cpp|cu|rs)$"),
    "training_code": re.compile(r"(^|/)(pre)?train(ing|er)?(_[\w.]+)?\.(py|sh)$"),
    "inference_code": re.compile(r"(^|/)(inference|generate|generation|demo|chat|run)(_[\w.]+)?\.(py|sh)$|^inference/"),
    "evaluation_code": re.compile(r"(^|/)eval(uate|uation)?(_[\w.]+)?\.(py|sh)$"),
    "data_preprocessing_code": re.compile(r"(^|/)(preprocess|prepare_data|tokenize_data|dedup)[\w.]*\.(py|sh)$"),
    "model_metadata": re.compile(r"(^|/)(training_args\.bin|trainer_state\.json|optimizer\.pt|train_results\.json)$"),
    "evaluation_results": re.compile(r"(^|/)(all_results|eval_results|results)[\w.-]*\.json$|^\.eval_results/"),
    "technical_report": re.compile(r"(report|paper)[\w.-]*\.pdf$", re.IGNORECASE),
    "data_card": re.compile(r"(^|/)(data_?card|datasheet|dataset_card)[\w.-]*\.(md|pdf)$", re.IGNORECASE),
}


def shown(artefacts: Artefacts) -> Iterator[tuple[str, Fact]]:
    """Topic and fact, for whatever a file of the folder carries."""
    files = [file for file in artefacts.files if not file.outside]
    weights = [f for f in files if _WEIGHTS.search(f.name) and not _NOT_WEIGHTS.search(f.name)]
    final = [f for f in weights if not _INTERMEDIATE.search(f.name)]
    if final:
        detail = f"{len(final)} file{'s' * (len(final) > 1)}, {in_bytes(sum(f.num_bytes for f in final))}"
        yield "model_parameters_final", Fact(Standing.PRESENT, _named(final), detail=detail)
    elif index := next((f for f in files if f.name.endswith(".index.json")), None):
        detail = "by its index; the weight files are not here"
        yield "model_parameters_final", Fact(Standing.PRESENT, (Evidence(index.name, "weight_map"),), detail=detail)
    elif artefacts.config.get("architectures"):
        evidence = Evidence("config.json", "architectures", str(artefacts.config["architectures"])[:200])
        detail = "by its configuration; the weight files are not here"
        yield "model_parameters_final", Fact(Standing.PRESENT, (evidence,), detail=detail)
    if between := [f for f in weights if _INTERMEDIATE.search(f.name)]:
        yield "model_parameters_intermediate", Fact(Standing.PRESENT, _named(between))
    for topic, pattern in _BY_NAME.items():
        if matching := [f for f in files if pattern.search(f.name)]:
            yield topic, Fact(Standing.PRESENT, _named(matching))


def _named(files: Iterable[File]) -> tuple[Evidence, ...]:
    return tuple(Evidence(file.name, "file") for file in list(files)[:MAX_NAMED])
