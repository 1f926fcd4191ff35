"""Models of random weights: their speed is that of trained ones of the same shape."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RandomModel:
    """`metadata` is of the architecture, without its prefix; `shapes` are of tensors, numpy order, without ".weight".

    `source`: the model whose tokenizer it has. `form`: the format of its matrices, F16 or Q8_0; `ftype`: the
    llama_ftype that llama.cpp requantizes it to, or None.
    """

    architecture: str
    source: str
    metadata: dict
    shapes: dict
    form: str = "F16"
    ftype: int | None = None
    float32: frozenset = field(default_factory=frozenset)  # kinds of matrices that stay so, as vectors do


def write_random(model, metadata, target):
    """A GGUF file of the model, with the tokenizer in `metadata`."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(target, model.architecture)
    writer.add_name(f"random weights in the shape of {model.architecture}")
    for key, value in model.metadata.items():
        add_value(writer, f"{model.architecture}.{key}", value)
    for key, value in metadata.items():
        if key.startswith("tokenizer."):
            add_value(writer, key, value)
    generator = numpy.random.default_rng(0)
    for name, shape in model.shapes.items():
        values = generator.standard_normal(shape, dtype=numpy.float32) * numpy.float32(0.02)
        if name.endswith("norm"):
            values += 1
        kind = name.split(".")[-1]
        plain = len(shape) == 1 or kind in model.float32
        form = gguf.GGMLQuantizationType["F32" if plain else model.form]
        name = name if name.endswith(".bias") else f"{name}.weight"
        writer.add_tensor(name, gguf.quants.quantize(values, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_value(writer, key, value):
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    if type(value) in add:
        add[type(value)](key, value)
    else:
        writer.add_array(key, list(value))


def qwen2(source, ftype):
    """The published shape of Qwen2.5-1.5B, tied embeddings and all, whose vocabulary is the 0.5B's."""
    layers, width, heads, kv_heads, feed_forward, vocabulary = 28, 1536, 12, 2, 8960, 151936
    kv = width // heads * kv_heads
    metadata = {
        "block_count": layers,
        "context_length": 32768,
        "embedding_length": width,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
    }
    shapes = {"token_embd": (vocabulary, width), "output_norm": (width,)}
    for layer in range(layers):
        for kind, shape in {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (kv, width),
            "attn_v": (kv, width),
            "attn_q.bias": (width,),
            "attn_k.bias": (kv,),
            "attn_v.bias": (kv,),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (feed_forward, width),
            "ffn_up": (feed_forward, width),
            "ffn_down": (width, feed_forward),
        }.items():
            shapes[f"blk.{layer}.{kind}"] = shape
    return RandomModel("qwen2", source, metadata, shapes, ftype=ftype)


def qwen3moe(source, form, ftype=None):
    """The shape of Qwen3-MoE with tied embeddings: 1.0 billion parameters, 0.45 of them for a token."""
    layers, width, heads, kv_heads, head, vocabulary = 20, 1024, 16, 4, 128, 151936
    experts, chosen, inner = 8, 2, 1536
    metadata = {
        "block_count": layers,
        "context_length": 32768,
        "embedding_length": width,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
        "expert_count": experts,
        "expert_used_count": chosen,
        "expert_feed_forward_length": inner,
    }
    block = {
        "attn_norm": (width,),
        "attn_q": (heads * head, width),
        "attn_k": (kv_heads * head, width),
        "attn_v": (kv_heads * head, width),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
        "attn_output": (width, heads * head),
        "ffn_norm": (width,),
        "ffn_gate_inp": (experts, width),
        "ffn_gate_exps": (experts, inner, width),
        "ffn_up_exps": (experts, inner, width),
        "ffn_down_exps": (experts, width, inner),
    }
    shapes = {"token_embd": (vocabulary, width), "output_norm": (width,)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{kind}": shape for kind, shape in block.items()}
    return RandomModel("qwen3moe", source, metadata, shapes, form, ftype, frozenset(["ffn_gate_inp"]))


def deepseek(source, form, ftype=None):
    """DeepSeek-V3's latent attention (head for head) and router, a layer of it dense, with 0.5 billion parameters."""
    layers, width, heads, vocabulary = 12, 1024, 16, 49152
    rank, query_rank, plain, turned, value = 512, 512, 128, 64, 128
    experts, chosen, inner, feed_forward = 32, 4, 256, 2816
    metadata = {
        "block_count": layers,
        "context_length": 32768,
        "embedding_length": width,
        "feed_forward_length": feed_forward,
        "leading_dense_block_count": 1,
        "vocab_size": vocabulary,
        "attention.head_count": heads,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.q_lora_rank": query_rank,
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + turned,
        "attention.value_length": rank,
        "attention.key_length_mla": plain + turned,
        "attention.value_length_mla": value,
        "rope.dimension_count": turned,
        "rope.freq_base": 1e4,
        "expert_count": experts,
        "expert_used_count": chosen,
        "expert_shared_count": 1,
        "expert_feed_forward_length": inner,
        "expert_gating_func": 2,
        "expert_weights_norm": True,
        "expert_weights_scale": 2.5,
    }
    attention = {
        "attn_norm": (width,),
        "attn_q_a": (query_rank, width),
        "attn_q_a_norm": (query_rank,),
        "attn_q_b": (heads * (plain + turned), query_rank),
        "attn_kv_a_mqa": (rank + turned, width),
        "attn_kv_a_norm": (rank,),
        "attn_k_b": (heads, rank, plain),
        "attn_v_b": (heads, value, rank),
        "attn_output": (width, heads * value),
        "ffn_norm": (width,),
    }
    dense = {"ffn_gate": (feed_forward, width), "ffn_up": (feed_forward, width), "ffn_down": (width, feed_forward)}
    routed = {
        "ffn_gate_inp": (experts, width),
        "exp_probs_b.bias": (experts,),
        "ffn_gate_exps": (experts, inner, width),
        "ffn_up_exps": (experts, inner, width),
        "ffn_down_exps": (experts, width, inner),
        "ffn_gate_shexp": (inner, width),
        "ffn_up_shexp": (inner, width),
        "ffn_down_shexp": (width, inner),
    }
    shapes = {"token_embd": (vocabulary, width), "output_norm": (width,), "output": (vocabulary, width)}
    for layer in range(layers):
        for kind, shape in (attention | (dense if layer == 0 else routed)).items():
            shapes[f"blk.{layer}.{kind}"] = shape
    return RandomModel("deepseek2", source, metadata, shapes, form, ftype, frozenset(["ffn_gate_inp"]))
