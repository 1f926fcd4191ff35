"""Multi-token prediction: the layer guesses what the reference's guesses, and no guess changes a bit of a reply."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="torch is needed for the reference")
transformers = pytest.importorskip("transformers", reason="transformers is the reference")
layers = pytest.importorskip("transformers.modeling_layers")
if not hasattr(layers, "MtpModel"):
    pytest.skip("this transformers has no multi-token prediction", allow_module_level=True)

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.cache_utils import MtpCache  # noqa: E402

import freehold  # noqa: E402
from freehold.cli import cli  # noqa: E402
from freehold.errors import ModelFileError  # noqa: E402
from freehold.executors.native import NativeExecutor  # noqa: E402
from freehold.executors.torch import TorchExecutor  # noqa: E402
from freehold.models.mtp import next_token_layer  # noqa: E402
from freehold.models.registry import model_for, unused_tensors  # noqa: E402
from freehold.weights.gguf import open_gguf  # noqa: E402
from freehold.weights.open import open_checkpoint  # noqa: E402
from parity.reference import Pair, random_ids  # noqa: E402
from parity.test_checkpoints import write_gguf  # noqa: E402
from parity.test_folders import publish  # noqa: E402
from steps import batch_of  # noqa: E402

MIXED_LAYERS = ["linear_attention", "full_attention", "full_attention", "full_attention"]
CHANGES = {
    "deepseek_v3": {},
    "glm4_moe": {},
    "qwen3_next": {"layer_types": MIXED_LAYERS},
    "qwen3_5": {"layer_types": MIXED_LAYERS},
    "deepseek_v32": {},
    "glm_moe_dsa": {},
    "glm_moe_dsa-shared": {"indexer_types": ["full", "full", "shared", "full"]},
    "ernie4_5": {},
    "ernie4_5_moe": {"moe_layer_end_index": 2},
}
QWEN_NAMES = {  # of families that give the layer a place of its own
    "eh_proj.": "mtp.fc.",
    "enorm.": "mtp.pre_fc_norm_embedding.",
    "hnorm.": "mtp.pre_fc_norm_hidden.",
    "shared_head.norm.": "mtp.norm.",
    "": "mtp.layers.0.",
}
ERNIE_NAMES = {
    "eh_proj.": "model.mtp_linear_proj.0.",
    "enorm.": "model.mtp_emb_norm.0.",
    "hnorm.": "model.mtp_hidden_norm.0.",
    "": "model.mtp_block.0.",
}
OWN_NAMES = {"qwen3_next": QWEN_NAMES, "qwen3_5": QWEN_NAMES, "ernie4_5": ERNIE_NAMES, "ernie4_5_moe": ERNIE_NAMES}
REFERENCES = ("deepseek_v3", "glm4_moe", *(name for name, own in OWN_NAMES.items() if own is QWEN_NAMES))  # have one
LAYER = "model.layers.3."  # behind the three of the model
PROMPT = "Hello, world! 你好 " * 3
IDS = random_ids(40)


def publish_further(folder: Path, name: str, **overrides: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model of three layers and its layer for multi-token prediction, as labs publish them.

    Returns the reference's of four layers, the last of which is that, and the tensors by its names.
    """
    reference, _ = publish(folder, name, num_hidden_layers=4, **CHANGES[name], **overrides)
    width, offset = reference.config.hidden_size, 0.0 if name.startswith("qwen") else 1.0
    tensors = load_file(folder / "model.safetensors")
    for norm in ("enorm", "hnorm", *(() if name.startswith("ernie") else ("shared_head.norm",))):
        tensors[f"{LAYER}{norm}.weight"] = offset + 0.2 * torch.randn(width)
    tensors[f"{LAYER}eh_proj.weight"] = 0.2 * torch.randn(width, 2 * width)
    if name not in OWN_NAMES:
        for copy, shared in (("shared_head.head", "lm_head"), ("embed_tokens", "model.embed_tokens")):
            tensors[f"{LAYER}{copy}.weight"] = tensors[f"{shared}.weight"].clone()
    config = json.loads((folder / "config.json").read_text())
    config |= {key: value[:3] for key, value in config.items() if isinstance(value, list) and len(value) == 4}
    config |= {"num_hidden_layers": 3, "num_mtp_layers": 1}
    if name.startswith("qwen"):
        config["mtp_layer_types"] = MIXED_LAYERS[3:]
    (folder / "config.json").write_text(json.dumps(config))
    save(folder, name, tensors)
    return reference, tensors


def save(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    if name in OWN_NAMES:
        own = {tensor: tensor.removeprefix(LAYER) for tensor in tensors if tensor.startswith(LAYER)}
        own = {
            tensor: next(new + rest.removeprefix(old) for old, new in OWN_NAMES[name].items() if rest.startswith(old))
            for tensor, rest in own.items()
        }
        tensors = {own.get(tensor, tensor): value for tensor, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def make_it_right(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    """The token seven further on follows mostly, and the layer hands the last one on: then most guesses are right."""
    for place, tensor in tensors.items():
        if place.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
            tensor *= 0.003
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].roll(7, 0)
    width = tensors["model.norm.weight"].shape[0]
    tensors[f"{LAYER}eh_proj.weight"] = torch.cat([torch.eye(width), torch.zeros(width, width)], 1).contiguous()
    tensors[f"{LAYER}enorm.weight"] = torch.zeros(width) if name.startswith("qwen") else torch.ones(width)
    if f"{LAYER}shared_head.norm.weight" in tensors:
        tensors[f"{LAYER}shared_head.norm.weight"] = tensors["model.norm.weight"].clone()
    save(folder, name, tensors)


@pytest.fixture(scope="module", params=CHANGES)
def published(request, tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A folder, and the reference's logits of what follows each of IDS[1:]."""
    folder = tmp_path_factory.mktemp(request.param)
    reference, tensors = publish_further(folder, request.param)
    if request.param in REFERENCES:
        return folder, reference_logits(folder, IDS)
    return folder, logits_around_the_block(reference, tensors, IDS)


@pytest.fixture(scope="module", params=CHANGES)
def right(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(f"{request.param}-right")
    _, tensors = publish_further(folder, request.param, tie_word_embeddings=False)
    make_it_right(folder, request.param, tensors)
    return folder


def reference_logits(folder: Path, ids: list[int]) -> np.ndarray:
    """Of the reference's layer, for what follows each of ids[1:]: float32 (len(ids) - 1, vocabulary)."""
    main = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    main._keys_to_ignore_on_load_unexpected = [r"model\.layers\.3\..*|mtp\..*"]  # where it looks for the layer
    further = layers.MtpModel.from_pretrained(main).eval()
    cache, tokens = MtpCache(config=main.config.get_mtp_config()), torch.tensor([ids])
    with torch.no_grad():
        hidden = main(tokens, output_hidden_states=True).hidden_states[-1][:, :-1]
        positions = torch.arange(1, len(ids))[None]
        hidden = further.forward_layer(0, hidden, positions, cache, input_ids=tokens[:, 1:])
        return further._project_to_logits(hidden)[0].numpy()


@torch.no_grad()
def logits_around_the_block(reference: Any, tensors: dict[str, torch.Tensor], ids: list[int]) -> np.ndarray:
    """As `reference_logits` where the reference has no such layer: its last block in the formulas of vLLM's
    `deepseek_mtp.py` and FastDeploy's `ernie4_5_mtp.py`, to which the hidden states come after the final norm."""
    reference.config.num_hidden_layers = 3
    model, tokens, count = reference.model, torch.tensor([ids]), len(ids) - 1

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], tensors[name], reference.config.rms_norm_eps)

    past = model(tokens[:, :-1], use_cache=False).last_hidden_state
    drawn = model.embed_tokens(tokens[:, 1:])
    both = torch.cat([norm(drawn, f"{LAYER}enorm.weight"), norm(past, f"{LAYER}hnorm.weight")], -1)
    hidden, positions = both @ tensors[f"{LAYER}eh_proj.weight"].T, torch.arange(count)[None]
    mask = torch.full((1, 1, count, count), -torch.inf).triu(1)
    turns = model.rotary_emb(hidden, position_ids=positions)
    hidden = model.layers[3](hidden, attention_mask=mask, position_ids=positions, position_embeddings=turns)
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    last = f"{LAYER}shared_head.norm.weight"
    return reference.lm_head(norm(hidden, last if last in tensors else "model.norm.weight"))[0].numpy()


def guesses(executor, ids: list[int], chunk: int) -> list[int]:
    """What the layer foresees behind each of ids[1:], in steps of `chunk` rows."""
    found = []
    for first in range(0, len(ids) - 1, chunk):
        rows = ids[first : first + chunk][: len(ids) - 1 - first]
        executor.run(batch_of([(rows, first, [3, 1, 2])]))
        following = batch_of([(ids[first + 1 : first + 1 + len(rows)], first, [3, 1, 2])])
        following.logit_rows += range(len(rows))
        found += executor.foresee(following, list(range(len(rows))))
    return found


def assert_likeliest(found: list[int], expected: np.ndarray) -> None:
    assert len(set(found)) > 10
    short = expected.max(-1) - expected[range(len(found)), found]
    assert (short <= 1e-4 * abs(expected).max()).all()


@pytest.mark.parametrize(("kind", "chunk"), [("torch", 64), ("native", 64), ("native", 7), ("native", 1)])
def test_guesses_are_the_references(published, kind, chunk):
    folder, expected = published
    checkpoint = open_checkpoint(folder)
    model = model_for(checkpoint)
    options = {"num_blocks": 5, "next_token": next_token_layer(model, checkpoint.tensors)}
    if kind == "torch":
        executor = TorchExecutor(model, checkpoint, **options)
    else:
        executor = NativeExecutor(model, checkpoint, dtype="float32", threads=2, **options)
    assert_likeliest(guesses(executor, IDS, chunk), expected)


def test_a_projection_published_transposed_is_the_same_layer(tmp_path):
    """As ERNIE-4.5-300B-A47B's."""
    reference, tensors = publish_further(tmp_path, "ernie4_5_moe")
    expected, name = logits_around_the_block(reference, tensors, IDS), f"{LAYER}eh_proj.weight"
    save(tmp_path, "ernie4_5_moe", tensors | {name: tensors[name].T.contiguous()})
    checkpoint = open_checkpoint(tmp_path)
    model = model_for(checkpoint)
    layer = next_token_layer(model, checkpoint.tensors)
    executor = NativeExecutor(model, checkpoint, num_blocks=5, dtype="float32", threads=2, next_token=layer)
    assert_likeliest(guesses(executor, IDS, 64), expected)


@pytest.mark.parametrize("published", ["deepseek_v3", "glm4_moe", "deepseek_v32", "glm_moe_dsa-shared"], indirect=True)
def test_a_gguf_file_holds_the_same_layer(published, tmp_path):
    folder, expected = published
    checkpoint = open_checkpoint(folder)
    layer = next_token_layer(model_for(checkpoint), checkpoint.tensors)
    # The writer asks for the names of all layers, which the model itself knows but for the last.
    layer.permuted_in_gguf = layer.decoder.permuted_in_gguf
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 4}
    keys = {"rope.dimension_count": 16, "nextn_predict_layers": 1}
    if layer.config.architecture != "glm4_moe":
        keys |= {"attention.key_length_mla": 40, "expert_gating_func": 2}
    if layer.config.architecture == "glm_moe_dsa":
        keys["attention.indexer.types"] = [True, True, False]
    write_gguf(Pair("", None, layer, checkpoint), config, tmp_path / "m.gguf", **keys)
    written = open_gguf(tmp_path / "m.gguf")
    model = model_for(written)
    layer = next_token_layer(model, written.tensors)
    assert model.config.num_layers == 3 and unused_tensors(model, written.tensors, layer) == []
    executor = NativeExecutor(model, written, num_blocks=5, dtype="float32", threads=2, next_token=layer)
    assert_likeliest(guesses(executor, IDS, 7), expected)


def replies(folder: Path, speculate: bool, **options):
    """Of requests of all kinds, one after the other: tokens and log-probabilities, and what was accepted meanwhile."""
    results = []
    with freehold.load(folder, threads=2, context=400, speculate=speculate, **options) as model:
        prompt = model.tokenize(PROMPT)
        assert model.info["next_token_layer"] == speculate
        for sampling in (
            {"temperature": 0.0},
            {"temperature": 0.0},  # all of the prompt but its end is cached
            {"temperature": 0.5, "seed": 5, "logprobs": 3},
            {"temperature": 0.3, "seed": 6, "repetition_penalty": 1.2},
            {"temperature": 0.0, "prompt_logprobs": 1},
            {"temperature": 0.0, "max_tokens": 260},  # past the end of a block, however long
        ):
            reply = model.generate(prompt, **({"max_tokens": 50, "ignore_eos": True} | sampling))
            results.append((reply.tokens, reply.logprobs, reply.top_logprobs, reply.finish_reason))
        tokens = results[0][0]
        stop = next(token for token in tokens[10:] if token not in tokens[:10])
        reply = model.generate(prompt, max_tokens=50, temperature=0.0, stop_ids=[stop])
        results.append((reply.tokens, reply.logprobs, reply.finish_reason))
        assert reply.finish_reason == "stop" and reply.tokens == tokens[: tokens.index(stop)]
        together = model.generate_tokens([prompt, prompt[:-3], prompt[5:]], max_tokens=20, temperature=0.0)
        results.append([(reply.tokens, reply.logprobs) for reply in together])
        with model.stream(prompt, max_tokens=300, temperature=0.0) as stream:
            next(iter(stream))
        results.append(model.generate(prompt + tokens[:30], max_tokens=20, temperature=0.0, ignore_eos=True).tokens)
        for _ in range(2):  # the second finds whole blocks of it
            reply = model.generate((prompt * 9)[:300], max_tokens=30, temperature=0.0, ignore_eos=True)
            results.append((reply.tokens, reply.logprobs))
        assert model.engine.stats().prefix_hit_tokens >= 256
        results.append(model.logits(prompt).tobytes())
        return results, model.engine.stats()


@pytest.mark.parametrize(
    ("right", "executor"),
    [*((name, "native") for name in CHANGES), ("qwen3_next", "torch"), ("deepseek_v32", "torch")],
    indirect=["right"],
)
def test_no_guess_changes_a_bit(right, executor):
    plain, without = replies(right, False, executor=executor)
    fast, stats = replies(right, True, executor=executor)
    if executor == "native":
        assert fast == plain
    else:
        assert [result[0] for result in fast[:6]] == [result[0] for result in plain[:6]]
    assert without.draft_tokens == 0 and stats.accepted_tokens > 60
    assert stats.steps < without.steps - 60


def test_wrong_guesses_change_no_bit(published):
    folder, _ = published
    plain, _ = replies(folder, False)
    fast, stats = replies(folder, True)
    assert fast == plain
    assert stats.draft_tokens > 0


def bytes_of_token(name, width, heads):
    """In 16 bits, padded, with a scale for each head's vector or row."""
    if name in ("keys", "values"):
        return 2 * (width + -width % 16) + 4 * heads
    return 2 * (width + -width % 32) + 4


def test_the_layer_is_budgeted_and_only_loaded_where_it_is_wanted_and_fits(right):
    with_layer, checkpoint = freehold.describe(right, context=400), open_checkpoint(right)
    shown = CliRunner().invoke(cli, ["show", str(right)]).output
    assert "3, 64 wide, and one that foresees the token after the next" in " ".join(shown.split())
    with freehold.load(right, context=400, threads=1) as model:
        assert model.info["memory"] == with_layer["memory"]
        numbered = f"{LAYER}enorm.weight" in checkpoint.tensors
        copies = {"model.layers": 2} if numbered else {}
        assert model.info["unused"] == copies  # of embedding and output matrix
    with freehold.load(right, context=400, threads=1, speculate=False) as model:
        plain, unused = model.info["memory"], model.info["unused"]
        assert not model.info["next_token_layer"] and sum(unused.values()) > 10
    more = with_layer["memory"]["kv_bytes_per_token"] - plain["kv_bytes_per_token"]
    layer = next_token_layer(model_for(checkpoint), checkpoint.tensors)
    heads = layer.config.num_kv_heads
    assert more == sum(bytes_of_token(name, width, heads) for name, width in layer.caches()[3].tokens.items())
    assert with_layer["memory"]["weights_bytes"] > plain["weights_bytes"]
    with freehold.load(right, context=400, threads=1, memory_bytes=with_layer["memory"]["total_bytes"] - 1) as model:
        assert not model.info["next_token_layer"] and model.info["memory"] == plain


@pytest.mark.parametrize("name", CHANGES)
def test_checkpoints_without_the_layer_are_as_they_were(name, tmp_path):
    publish(tmp_path, name)
    checkpoint = open_checkpoint(tmp_path)
    model = model_for(checkpoint)
    assert next_token_layer(model, checkpoint.tensors) is None
    assert unused_tensors(model, checkpoint.tensors) == []


def test_a_damaged_layer_is_refused(tmp_path):
    _, tensors = publish_further(tmp_path, "deepseek_v3")
    del tensors[f"{LAYER}hnorm.weight"]
    save(tmp_path, "deepseek_v3", tensors)
    with pytest.raises(ModelFileError, match=r"model\.layers\.3\.hnorm\.weight: missing from the file's tensors"):
        freehold.load(tmp_path, threads=1)
    with freehold.load(tmp_path, threads=1, speculate=False) as model:
        assert model.generate("Hello", max_tokens=3, temperature=0).tokens
