// The operations of a native program. The Python tracer fuses what a model's forward says into these.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "expert_cache.h"
#include "formats/blocks.h"
#include "program.h"
#include "tensor_bytes.h"

namespace freehold {

// Rows of an embedding table, dequantized from the file's blocks.
struct EmbeddingOptions {
    Format format;
    TensorBytes table;  // [rows][width]
    int num_rows, width, out;
};

// Cosines and sines of position * inverse_frequency for each row of the step: out [T][cosines..., sines...].
struct RopeAnglesOptions {
    std::vector<float> inverse_frequencies;
    float scale;  // of cosines and sines (yarn's attention factor)
    int out;
};

struct RopeOptions {
    int angles = -1;                // a RopeAngles' buffer; -1: no rope
    int first = 0, rotary_dim = 0;  // the channels of a head that turn
    bool interleaved = false;
};

struct Projection {
    PackedWeight weight;
    std::vector<float> bias;  // empty: none
    int out;
};

enum class Epilogue { None, Swiglu, Cache };

// Matrices that read the same rows: optionally normed first, and followed by
//   None    out = W x (+ bias) (+ residual)
//   Swiglu  two projections: the first one's buffer becomes silu(gate) * up
//   Cache   three projections q, k, v: rope on q and k, and k and v into the KV cache of `layer`
struct LinearOptions {
    std::string name;
    int input;
    std::vector<float> norm;  // empty: none
    float eps = 0;
    std::vector<Projection> projections;
    int residual = -1;
    Epilogue epilogue = Epilogue::None;
    RopeOptions rope;
    int layer = 0;
};

struct AttentionOptions {
    int q, out, layer, num_heads;
    float scale;
    int window = 0;            // keys that a query sees, its own included; 0: all
    int chunk = 0;             // it sees those of its own chunk of positions only; 0: all
    std::vector<float> sinks;  // [num_heads] logits of a key without a value; empty: none
};

// A causal convolution of each channel, and where its last rows are kept among a block's states.
struct Convolution {
    int input, out;
    std::vector<float> weight;  // [taps][channels]
    size_t state;
};

// Linear attention of heads that each keep a state [key dim][value dim].
struct RecurrenceOptions {
    std::string name;
    int q, k, v, out;
    int num_heads, num_key_heads;
    bool tiled_heads = false;  // head j uses key head j % num_key_heads, not j / (num_heads / num_key_heads)
    size_t state;              // among a block's states
    // Buffers for prepared rows, as wide as what they are made of; each may be the same buffer.
    int prepared_q, prepared_k, prepared_v = -1, decays = -1, strengths = -1;
    // The delta rule: buffers with a value for each head (and key channel), and what makes a decay of it.
    int decay = -1, beta = -1;
    std::vector<float> rate, decay_bias;  // rate: its logarithm, of each head
    // Lightning attention: how fast each head forgets.
    std::vector<float> slopes;
};

// A matrix for each head, applied to its part of each row.
struct HeadLinearOptions {
    std::string name;
    int input, in_stride;  // columns from one head's part to the next's, of which the matrix reads the first
    int out, out_stride;
    std::vector<PackedWeight> weights;  // of each head, all of one shape
};

// A buffer whose rows are kept, and as which of the cache's rows.
struct KeptPart {
    int input, rows;
};

// Attention on latents: a key is a latent and a rotated key, a value is the latent.
struct LatentOptions {
    int absorbed;            // queries of latents: [num_heads][latent, rounded up to 16]
    int q;                   // [num_heads][plain_dim + rotated], of which the rotated part is read
    int out;                 // as `absorbed`; may be the same
    int latents, rope_keys;  // kept rows
    int num_heads, plain_dim;
    float scale;
    int selected = -1;  // positions that a query sees, ascending: top_k, or its whole past where that is less; -1: all
    int top_k = 0;
};

// The positions of the keys that an indexer ranks first (see ops.select_keys), for LatentOptions::selected.
struct SelectKeysOptions {
    int q, weights;  // [num_heads][width of a key]; [num_heads]
    int keys;        // kept rows
    int num_heads, top_k, out;
};

void add_short_convolutions(Program&, int taps, std::vector<Convolution>);
void add_recurrence(Program&, RecurrenceOptions);
void add_keep_rows(Program&, std::vector<KeptPart>);  // into the pages
void add_head_linear(Program&, HeadLinearOptions);
void add_latent_attention(Program&, LatentOptions);
void add_select_keys(Program&, SelectKeysOptions);
// See `Router` in ops.py.
struct RouterOptions {
    int top_k;
    bool sigmoid = false;  // scores are a sigmoid of the logits, not their softmax
    int num_groups = 1, top_groups = 1;
    bool best_two = false;  // a group's score is the sum of its two best, not its best
    bool normalize = true;
    float least_sum = 1e-20f, scale = 1;
    bool scales_inputs = false;
    std::vector<float> correction;  // [experts]; empty: none
};

// One of an expert's matrices, for all experts: packed, or where they lie until they are used.
struct ExpertMatrix {
    std::vector<PackedWeight> packed;  // [experts]; without data where there are `sources`
    std::vector<TensorBytes> sources;  // [experts]; empty: all are packed
    std::vector<float> bias;           // [experts][rows]; empty: none
};

// out = sum over a row's experts of their weights times down(glu(gate x, up x)) (+ residual)
struct ExpertsOptions {
    int input;
    std::vector<float> norm;  // empty: none
    float eps = 0;
    int logits, out, residual = -1;
    RouterOptions router;
    ExpertMatrix gate, up, down;
    Glu glu;
    std::shared_ptr<ExpertCache> cache;  // of experts that are not all packed
};

void add_embedding(Program&, EmbeddingOptions);
void add_rope_angles(Program&, RopeAnglesOptions);
void add_linear(Program&, LinearOptions);
void add_attention(Program&, AttentionOptions);
void add_experts(Program&, ExpertsOptions);
void add_select_rows(Program&, int input, int out);  // the step's logit rows
void add_layer_norm(Program&, int input, std::vector<float> weight, std::vector<float> bias, float eps, int out);
// x times the activation of `gate`, which has a channel for each of x's, or one for all.
void add_gate(Program&, int x, int gate, Activation, int out);
// x * (1 + scale * log(1 + floor((position + 1) / step)))
void add_scale_by_position(Program&, int input, float scale, float step, int out);
// Each of the equal parts of a row that `weight` is as wide as, by itself.
void add_rms_norm(Program&, int input, std::vector<float> weight, float eps, int out);
void add_gated_rms_norm(Program&, int input, int gate, std::vector<float> weight, float eps, Activation, int out);
// The same as parts of the fused operations, for graphs that do not fuse.
void add_rope(Program&, int input, int num_heads, int head_dim, RopeOptions, int out);
void add_cache_write(Program&, int k, int v, int layer);
void add_swiglu(Program&, int gate, int up, Glu, int out);
void add_add(Program&, int a, int b, float a_scale, float b_scale, int out);

}  // namespace freehold
