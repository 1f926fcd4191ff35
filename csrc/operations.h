// The operations of a native program. The Python tracer fuses what a model's forward says into these.
#pragma once

#include <string>
#include <vector>

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
    int angles = -1;  // a RopeAngles' buffer; -1: no rope
    int rotary_dim = 0;
    bool interleaved = false;
    int first = 0;
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
void add_keep_rows(Program&, int input, int rows);  // into the pages
void add_head_linear(Program&, HeadLinearOptions);
void add_latent_attention(Program&, LatentOptions);
void add_select_keys(Program&, SelectKeysOptions);
void add_embedding(Program&, EmbeddingOptions);
void add_rope_angles(Program&, RopeAnglesOptions);
void add_linear(Program&, LinearOptions);
void add_attention(Program&, AttentionOptions);
void add_select_rows(Program&, int input, int out);  // the step's logit rows
// The same as parts of the fused operations, for graphs that do not fuse.
// Each of the equal parts of a row that `weight` is as wide as, by itself.
void add_rms_norm(Program&, int input, std::vector<float> weight, float eps, int out);
void add_layer_norm(Program&, int input, std::vector<float> weight, std::vector<float> bias, float eps, int out);
void add_rope(Program&, int input, int num_heads, int head_dim, RopeOptions, int out);
void add_cache_write(Program&, int k, int v, int layer);
void add_swiglu(Program&, int gate, int up, int out);
void add_add(Program&, int a, int b, int out);

}  // namespace freehold
