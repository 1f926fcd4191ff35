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

YARN_ROPE = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
MOE = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=48)
ERNIE_MOE = dict(moe_num_experts=8, moe_k=3, moe_intermediate_size=48, moe_num_shared_experts=2, use_bias=False)
GROUPED = dict(
    n_routed_experts=16,
    num_experts_per_tok=4,
    n_group=4,
    topk_group=2,
    moe_intermediate_size=48,
    n_shared_experts=2,
    routed_scaling_factor=1.7,
    first_k_dense_replace=1,
)
LATENT = dict(
    q_lora_rank=48,
    kv_lora_rank=40,
    qk_nope_head_dim=24,
    qk_rope_head_dim=16,
    head_dim=16,  # as released files have it: of the rope
    v_head_dim=20,
    num_key_value_heads=4,
)
INDEX = dict(index_topk=6, index_n_heads=16, index_head_dim=24)
DELTA = dict(
    layer_types=["linear_attention", "full_attention", "linear_attention"],
    linear_num_key_heads=2,
    linear_num_value_heads=6,
    linear_key_head_dim=12,
    linear_value_head_dim=20,
    linear_conv_kernel_dim=4,
)
MROPE = dict(
    rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5, mrope_section=[3, 3, 2], mrope_interleaved=True
)
KIMI_LINEAR = dict(
    num_experts=16,
    q_lora_rank=None,
    linear_head_dim=12,
    linear_num_heads=6,
    linear_conv_kernel_dim=3,
    layer_types=["linear_attention", "full_attention", "linear_attention"],
    pad_token_id=0,
)
GPT_OSS = dict(
    num_local_experts=8,
    num_experts_per_tok=3,
    sliding_window=9,
    swiglu_limit=0.5,
    rope_parameters=YARN_ROPE | dict(truncate=False),
)
LLAMA4 = dict(
    num_hidden_layers=4,
    num_local_experts=8,
    intermediate_size=48,
    intermediate_size_mlp=80,
    attention_chunk_size=16,
    floor_scale=8,
    attn_scale=0.3,
    pad_token_id=0,
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
    "yarn-rope": ("llama", dict(rope_parameters=YARN_ROPE)),
    "yarn-rope-mscale": (
        "llama",
        dict(rope_parameters=YARN_ROPE | dict(mscale=0.7, mscale_all_dim=1.3, truncate=False)),
    ),
    "llama-all-biases": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "mistral-window": ("mistral", dict(sliding_window=9)),
    "mistral": ("mistral", dict(sliding_window=None)),
    "olmo2": ("olmo2", {}),
    "qwen2": ("qwen2", {}),
    "qwen2-windows": ("qwen2", dict(use_sliding_window=True, sliding_window=11, max_window_layers=1)),
    "qwen3": ("qwen3", {}),
    "qwen3-biases-tied": ("qwen3", dict(attention_bias=True, tie_word_embeddings=True)),
    "glm": ("glm", dict(attention_bias=True, partial_rotary_factor=0.5, pad_token_id=0)),
    "glm4": ("glm4", dict(attention_bias=True, partial_rotary_factor=0.5, pad_token_id=0)),
    "qwen2_moe": ("qwen2_moe", MOE | dict(shared_expert_intermediate_size=40)),
    "qwen2_moe-sparse-step": ("qwen2_moe", MOE | dict(decoder_sparse_step=2, norm_topk_prob=True)),
    "qwen3_moe": ("qwen3_moe", MOE | dict(norm_topk_prob=True)),
    "qwen3_moe-mlp-only": ("qwen3_moe", MOE | dict(norm_topk_prob=False, mlp_only_layers=[1])),
    "ernie4_5_moe": ("ernie4_5_moe", ERNIE_MOE),
    "ernie4_5_moe-interval": (
        "ernie4_5_moe",
        ERNIE_MOE | dict(use_bias=True, moe_layer_interval=2, moe_layer_start_index=0, moe_num_shared_experts=0),
    ),
    "glm4_moe": ("glm4_moe", GROUPED | dict(use_qk_norm=True, attention_bias=True)),
    "glm4_moe-one-group": (
        "glm4_moe",
        GROUPED | dict(use_qk_norm=False, n_group=1, topk_group=1, norm_topk_prob=False),
    ),
    "minimax_m2": ("minimax_m2", dict(num_local_experts=8, num_experts_per_tok=3, rotary_dim=16, intermediate_size=48)),
    "gpt_oss": ("gpt_oss", GPT_OSS),
    "gpt_oss-limit-of-7": ("gpt_oss", GPT_OSS | dict(swiglu_limit=7.0)),
    "gpt_oss-all-windows": ("gpt_oss", GPT_OSS | dict(layer_types=["full_attention"] + ["sliding_attention"] * 2)),
    "llama4": ("llama4_text", LLAMA4),
    "llama4-dense-layers": (
        "llama4_text",
        LLAMA4 | dict(interleave_moe_layer_step=2, use_qk_norm=False, attn_temperature_tuning=False),
    ),
    "deepseek_v2": ("deepseek_v2", LATENT | GROUPED | dict(topk_method="group_limited_greedy")),
    "deepseek_v2-lite": ("deepseek_v2", LATENT | GROUPED | dict(q_lora_rank=None, topk_method="greedy", n_group=None)),
    "deepseek_v3": ("deepseek_v3", LATENT | GROUPED),
    "deepseek_v3-biases-yarn": (
        "deepseek_v3",
        LATENT | GROUPED | dict(attention_bias=True, rope_parameters=YARN_ROPE | dict(mscale=0.7, mscale_all_dim=1.3)),
    ),
    "deepseek_v3-half-split": ("deepseek_v3", LATENT | GROUPED | dict(rope_interleave=False, q_lora_rank=None)),
    "glm4_moe_lite": ("glm4_moe_lite", LATENT | GROUPED | dict(mlp_layer_types=["dense", "sparse", "sparse"])),
    "deepseek_v32": ("deepseek_v32", LATENT | GROUPED | INDEX),
    "glm_moe_dsa": ("glm_moe_dsa", LATENT | GROUPED | INDEX),
    "glm_moe_dsa-shared": ("glm_moe_dsa", LATENT | GROUPED | INDEX | dict(indexer_types=["full", "shared", "full"])),
    "qwen3_next": ("qwen3_next", DELTA | MOE | dict(shared_expert_intermediate_size=40, norm_topk_prob=True)),
    "qwen3_next-dense-layer": (
        "qwen3_next",
        DELTA | MOE | dict(shared_expert_intermediate_size=40, mlp_only_layers=[1], attention_bias=True),
    ),
    "qwen3_5": ("qwen3_5_text", DELTA | dict(rope_parameters=MROPE)),
    "qwen3_5_moe": (
        "qwen3_5_moe_text",
        DELTA | MOE | dict(shared_expert_intermediate_size=40, rope_parameters=MROPE, tie_word_embeddings=True),
    ),
    "minimax": (
        "minimax",
        dict(
            num_local_experts=8,
            num_experts_per_tok=3,
            block_size=16,
            full_attn_alpha_factor=1.2,
            full_attn_beta_factor=0.7,
            linear_attn_alpha_factor=0.9,
            linear_attn_beta_factor=1.3,
            mlp_alpha_factor=1.1,
            mlp_beta_factor=0.8,
        ),
    ),
    "kimi_linear": ("kimi_linear", LATENT | GROUPED | KIMI_LINEAR),
    "kimi_linear-low-rank-queries": ("kimi_linear", LATENT | GROUPED | KIMI_LINEAR | dict(q_lora_rank=24)),
    "ernie4_5": ("ernie4_5", dict(use_bias=False)),
    "ernie4_5-biases-tied": ("ernie4_5", dict(use_bias=True, tie_word_embeddings=True)),
    "phi3": ("phi3", dict(pad_token_id=0, sliding_window=None)),
    "phi3-window-partial-rope": (
        "phi3",
        dict(
            pad_token_id=0,
            sliding_window=9,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
        ),
    ),
    "qwen2-tied": ("qwen2", dict(tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "exaone4": ("exaone4", dict(sliding_window=9, sliding_window_pattern=2)),
    "exaone4-no-windows": (
        "exaone4",
        dict(sliding_window=None, layer_types=["full_attention"] * 3, rope_parameters=LLAMA3_ROPE),
    ),
}
