"""Tiny configurations of every architecture, such that nothing in them is without effect: heads wider than hidden size
over heads, windows and top-k smaller than the sequences, groups that mask, rope scaling on.
"""

SIZES = dict(
    vocab_size=99,
    hidden_size=64,
    intermediate_size=112,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)

# Name of the case: model_type, what differs from SIZES.
CASES = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", dict(tie_word_embeddings=True)),
    "llama-one-kv-head": ("llama", dict(num_key_value_heads=1)),
    "llama-odd-heads": ("llama", dict(head_dim=24, num_attention_heads=2)),
    "llama-large-eps": ("llama", dict(rms_norm_eps=1e-2)),
    "llama3-rope": ("llama", dict(rope_parameters=LLAMA3_ROPE)),
    "linear-rope": ("llama", dict(rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=500.0))),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e6))),
}
