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

void add_embedding(Program&, EmbeddingOptions);
void add_rope_angles(Program&, RopeAnglesOptions);
void add_linear(Program&, LinearOptions);
void add_attention(Program&, AttentionOptions);
void add_select_rows(Program&, int input, int out);  // the step's logit rows
// The same as parts of the fused operations, for graphs that do not fuse.
// Each of the equal parts of a row that `weight` is as wide as, by itself.
void add_rms_norm(Program&, int input, std::vector<float> weight, float eps, int out);
void add_rope(Program&, int input, int num_heads, int head_dim, RopeOptions, int out);
void add_cache_write(Program&, int k, int v, int layer);
void add_swiglu(Program&, int gate, int up, int out);
void add_add(Program&, int a, int b, int out);

}  // namespace freehold
