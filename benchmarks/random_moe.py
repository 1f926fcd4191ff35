"""A model of routed experts, of random weights in the shape of Qwen3-MoE, written in quantized blocks at once."""

from dataclasses import dataclass, field

import numpy

# Half-precision figures at the head or end of a block, byte offset: value, such that weights are some hundredths.
HALVES = {"Q4_K": {0: 8e-5, 2: 6e-4}, "Q6_K": {208: 1.5e-5}, "Q8_0": {0: 2.7e-4}}
# What llama.cpp's quantizer gives a model of 8 experts; Q6_K of down stands in every other layer.
Q4_K_M = {"attn_k": "Q8_0", "attn_v": "Q8_0", "token_embd": "Q6_K", "more": "Q6_K", "": "Q4_K"}
Q8_0 = {"more": "Q8_0", "": "Q8_0"}


@dataclass(frozen=True)
class Moe:
    """The shape: 1.0B parameters, 0.4B of them for a token, unless it is said otherwise."""

    formats: dict = field(default_factory=lambda: Q4_K_M)  # of a tensor; "more": of every other layer's down; "": else
    layers: int = 20
    width: int = 1024
    heads: int = 16
    kv_heads: int = 4
    head: int = 128
    experts: int = 8
    used: int = 2
    inner: int = 1536
    context: int = 32768

    def shapes(self, vocabulary):
        """Tensor shapes, numpy order, with tied embeddings."""
        result = {"token_embd": (vocabulary, self.width), "output_norm": (self.width,)}
        inner, width = self.inner, self.width
        for layer in range(self.layers):
            for kind, shape in {
                "attn_norm": (width,),
                "attn_q": (self.heads * self.head, width),
                "attn_k": (self.kv_heads * self.head, width),
                "attn_v": (self.kv_heads * self.head, width),
                "attn_q_norm": (self.head,),
                "attn_k_norm": (self.head,),
                "attn_output": (width, self.heads * self.head),
                "ffn_norm": (width,),
                "ffn_gate_inp": (self.experts, width),
                "ffn_gate_exps": (self.experts, inner, width),
                "ffn_up_exps": (self.experts, inner, width),
                "ffn_down_exps": (self.experts, width, inner),
            }.items():
                result[f"blk.{layer}.{kind}"] = shape
        return result

    def format(self, name, shape):
        kind = name.rpartition(".")[2]
        if len(shape) == 1 or kind == "ffn_gate_inp":
            return "F32"
        if kind == "ffn_down_exps" and int(name.split(".")[1]) % 2:
            return self.formats["more"]
        return self.formats.get(kind, self.formats[""])


def write_random_moe(moe, tokenizer, target):
    """`tokenizer`: metadata of a GGUF file that has one."""
    import gguf

    writer = gguf.GGUFWriter(target, "qwen3moe")
    writer.add_name("random weights in the shape of Qwen3-MoE")
    writer.add_block_count(moe.layers)
    writer.add_context_length(moe.context)
    writer.add_embedding_length(moe.width)
    writer.add_feed_forward_length(moe.inner)
    writer.add_head_count(moe.heads)
    writer.add_head_count_kv(moe.kv_heads)
    writer.add_key_length(moe.head)
    writer.add_value_length(moe.head)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(moe.experts)
    writer.add_expert_used_count(moe.used)
    writer.add_expert_feed_forward_length(moe.inner)
    for key, value in tokenizer.items():
        add_value(writer, key, value)
    shapes = moe.shapes(len(tokenizer["tokenizer.ggml.tokens"]))
    layouts = {name: (moe.format(name, shape), shape) for name, shape in shapes.items()}
    for name, (form, shape) in layouts.items():
        kind = gguf.GGMLQuantizationType[form]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        raw = (*shape[:-1], shape[-1] // elements * size)
        if form == "F32":
            writer.add_tensor_info(f"{name}.weight", shape, numpy.dtype(numpy.float32), 4 * int(numpy.prod(shape)))
        else:
            writer.add_tensor_info(f"{name}.weight", raw, numpy.dtype(numpy.uint8), int(numpy.prod(raw)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = numpy.random.default_rng(0)
    for name, (form, shape) in layouts.items():
        writer.write_tensor_data(random_tensor(form, shape, "norm" in name, generator))
    writer.close()


def add_value(writer, key, value):
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    if type(value) in add:
        add[type(value)](key, value)
    else:
        writer.add_array(key, list(value))


def random_tensor(form, shape, is_norm, generator):
    """Values, or the bytes of blocks, with a mean of about zero."""
    if form == "F32":
        values = generator.standard_normal(shape, dtype=numpy.float32) * numpy.float32(0.02)
        return values + 1 if is_norm else values
    import gguf

    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[form]]
    blocks = generator.integers(0, 256, (numpy.prod(shape) // elements, size), dtype=numpy.uint8)
    for at, scale in HALVES[form].items():
        half = numpy.array([scale], numpy.float16).view(numpy.uint8)
        blocks[:, at : at + 2] = half
    return blocks.reshape(*shape[:-1], -1)
