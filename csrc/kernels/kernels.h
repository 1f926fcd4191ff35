// What an instruction set offers to the program: a table of functions, one table an instruction set.
//
// Shapes: T rows (tokens) of a step, K inputs and N outputs of a matrix, H heads, D head size, S keys of a KV block.
// The law "same bits" is kept here: every output is summed in an order fixed by columns (blocks of 32, one after
// the other) or by the position of the key (spans of 256), never by how many rows are in the step or by the thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "packed.h"

namespace freehold {

inline constexpr int kKvBlock = 32;  // keys of a KV block
inline constexpr int kSpan = 256;    // keys that share one softmax maximum; spans are combined in order
inline constexpr int kMaxHeadDim = 512;

// Rows made ready for matrices: as they are, and as int8 codes with one scale for 32 columns.
struct PreparedRows {
    int cols = 0;
    size_t value_stride = 0;
    const float* values = nullptr;       // [T][value_stride]
    int8_t* codes = nullptr;             // [T][K]
    float* scales = nullptr;             // [T][K/32]
    float* scaled_sums = nullptr;        // [T][K/32]: scale times the sum of the codes
    int32_t* negative_sums32 = nullptr;  // [T][K/32]: minus the sum of the codes
    int32_t* negative_sums16 = nullptr;  // [T][K/16]
};

// The outputs of some panels for rows row0..row1: out[row][0..16 num_panels) = weight . row (+ bias) (+ residual).
struct LinearTask {
    const uint8_t* panel;  // the first
    size_t panel_stride;   // bytes
    int num_panels;
    const uint8_t* next_panel;  // will be wanted after these: fetched into the cache meanwhile; or null
    const PreparedRows* x;
    int row0, row1;
    float* out;             // at the first panel's first column of row 0
    size_t out_stride;      // floats
    const float* bias;      // of these outputs, or null
    const float* residual;  // shaped and strided as out (may be out itself), or null
    uint8_t* scratch;       // linear_scratch_bytes
};
using LinearKernel = void (*)(const LinearTask&);

// Two unpacked panels.
constexpr size_t linear_scratch_bytes(int cols) { return size_t(cols) * kPanelRows * 2; }

// Int16 (codes of 14 bits) and Int8: with a scale in float32 for each vector of a head, or row that is kept.
enum class KvFormat : uint8_t { Int16, BF16, Int8, F32 };
enum class RowFormat : uint8_t { Int16, BF16, F32 };

// Where keys and values lie: for each (KV block, layer, head) first the keys as [D][S], then the values as [S][D],
// D rounded up to 16; of integers as [D / 2][S][2] and [S / 2][D][2], so that a lane has two of what is summed, then S
// key scales and S value scales in float32.
struct KvLayout {
    KvFormat format = KvFormat::Int16;
    int layers = 0, heads = 0, head_dim = 0;

    int padded_dim() const { return (head_dim + 15) / 16 * 16; }
    int element_bytes() const { return format == KvFormat::F32 ? 4 : format == KvFormat::Int8 ? 1 : 2; }
    size_t keys_bytes() const { return size_t(padded_dim()) * kKvBlock * element_bytes(); }
    bool is_integer() const { return format == KvFormat::Int8 || format == KvFormat::Int16; }
    size_t head_bytes() const { return 2 * keys_bytes() + (is_integer() ? 2 * kKvBlock * sizeof(float) : 0); }
    // Of the keys and values of a block that begin at `head_block`.
    float* key_scales(uint8_t* head_block) const { return reinterpret_cast<float*>(head_block + 2 * keys_bytes()); }
    float* value_scales(uint8_t* head_block) const { return key_scales(head_block) + kKvBlock; }
    const float* key_scales(const uint8_t* head_block) const {
        return reinterpret_cast<const float*>(head_block + 2 * keys_bytes());
    }
    const float* value_scales(const uint8_t* head_block) const { return key_scales(head_block) + kKvBlock; }
    size_t block_bytes() const { return size_t(layers) * heads * head_bytes(); }
    size_t head_offset(int layer, int head) const { return (size_t(layer) * heads + head) * head_bytes(); }
};

// Softmax over a run of keys, not yet divided: the maximum score and the sum of exp(score - maximum).
struct SoftmaxSum {
    float max, sum;
};

// A query's state between spans, in floats: SoftmaxSum, then from kStateValues on the weighted values [D padded].
inline constexpr int kStateValues = 16;
constexpr size_t attention_state_floats(int padded_dim) { return size_t(padded_dim) + kStateValues; }

// The queries of `num_rows` consecutive tokens for the heads that share one KV head, against spans [span0, span1).
struct AttentionTask {
    const KvLayout* layout;
    const uint8_t* kv;     // the pool, at the offset of this layer and head
    size_t page_bytes;     // of the pool
    const int32_t* pages;  // page of each kKvBlock positions
    const float* q;        // [num_rows][q_stride], at the group's first head
    size_t q_stride;
    float* out;  // as q; written when `states` is null
    size_t out_stride;
    int num_rows, group;  // tokens; query heads of this KV head
    int position;         // of the first token
    int span0, span1;
    float scale;               // of the scores
    int window;                // keys that a query sees, its own included; 0: all
    int chunk;                 // it sees those of its own chunk of positions only; 0: all
    const float* sinks;        // [group] logits of a key without a value, or null
    float* states;             // [num_rows * group] states to write instead of `out`, or null
    float* scratch;            // attention_scratch_floats
    bool is_streamed;          // few queries: reading keys and values takes the time, so they are fetched ahead
    const uint8_t* next_keys;  // then wanted after these: a block of this layer; or null

    const uint8_t* head_block(int block) const { return kv + size_t(pages[block]) * page_bytes; }
};

// Keys that lie as rows, of one part or of two side by side: first[k][0..first_dim), second[k][0..second_dim).
struct KeyRows {
    RowFormat format;
    int num_keys;
    const uint8_t* const* first;   // [num_keys rounded up to kKvBlock], those behind the last being any rows
    const uint8_t* const* second;  // as `first`; not read when second_dim is 0
    int first_dim, second_dim;     // multiples of kRowColumns
    const float* scales;           // [num_keys rounded up to kKvBlock], of Int16: those of both parts
};

inline constexpr int kRowColumns = 32;     // rows that are kept are padded to so many
inline constexpr int kKeyLevels = 8191;    // codes of Int16 lie so far either side of zero
inline constexpr int kMaxSecondDim = 448;  // of keys of two parts
inline constexpr int kQueryGroup = 4;      // queries of rows are padded to so many
constexpr int padded_queries(int count) { return (count + kQueryGroup - 1) / kQueryGroup * kQueryGroup; }
inline constexpr int kLatentQueries = 16;  // of a task at most

// Queries of one token against one span of keys, all of which it sees; the values are the first parts of the keys.
struct LatentTask {
    KeyRows keys;    // at most kSpan
    const float* q;  // [num_queries rounded up to kQueryGroup][first_dim + second_dim], the scores' scale in them
    int num_queries;
    float* states;   // [num_queries] attention_state_floats(first_dim): the span is combined into them
    float* scratch;  // latent_scratch_floats(first_dim, first_dim + second_dim)
};

// What queries of `dim` columns need to become codes, and what the weights of a group of them need.
constexpr size_t query_code_floats(int queries, int dim) { return size_t(queries) * (size_t(dim) / 2 + 1); }
inline constexpr size_t kWeightCodeFloats = kQueryGroup * (kSpan / 2 + kSpan / kKvBlock);

constexpr size_t latent_scratch_floats(int rank, int dim) {
    return kLatentQueries * (kSpan + attention_state_floats(rank)) + query_code_floats(kLatentQueries, dim) +
           kWeightCodeFloats;
}
constexpr size_t rank_scratch_floats(int heads, int dim) {
    return kQueryGroup * kSpan + query_code_floats(padded_queries(heads), dim);
}

// Ranks of the keys of a span: ranks[k] = sum over heads of weights[head] * max(0, q[head] . k), head after head.
struct RankTask {
    KeyRows keys;          // at most kSpan, of one part
    const float* q;        // [num_heads rounded up to kQueryGroup][first_dim]
    const float* weights;  // [num_heads]
    int num_heads;
    float* ranks;    // [num_keys rounded up to kKvBlock]
    float* scratch;  // rank_scratch_floats
};

struct RopeTask {
    float* heads;  // [num_heads][head_dim] of one row
    int num_heads, head_dim;
    int first, rotary_dim;  // the channels that turn
    bool interleaved;       // pairs (2i, 2i+1) rather than (i, i + rotary_dim/2)
    const float* cosines;   // [rotary_dim / 2]
    const float* sines;
};

// Rows of some channels of a causal convolution: out = silu(sum over taps of weight[tap] * rows[row + tap]).
struct ConvolutionTask {
    const float* const* rows;  // [taps - 1 + num_rows]: those before the first, then each
    const float* weight;       // [taps][weight_stride]
    size_t weight_stride;
    float* out;
    size_t out_stride;
    int num_rows, taps, count;  // count: channels, a multiple of 16
};

inline constexpr int kStateColumns = 32;  // value channels of a slice of a state

// Rows of linear attention on a slice of one head's state (see ops.delta_rule and ops.lightning_attention).
struct RecurrenceTask {
    float* state;        // [key_dim][kStateColumns]
    const float *q, *k;  // [num_rows][stride], of the head
    size_t q_stride, k_stride;
    const float* v;  // [num_rows][v_stride], at the slice's first column
    size_t v_stride;
    const float* decay;  // [num_rows][decay_stride], a factor for the head or for each key channel
    size_t decay_stride;
    bool decay_per_channel;
    const float* strength;  // [num_rows][strength_stride], of the delta rule; or null: a plain sum
    size_t strength_stride;
    float* out;  // as v
    size_t out_stride;
    int num_rows, key_dim, num_columns;
};
// g * sigmoid(alpha * g) * (u + offset), with g <= limit and -limit <= u <= limit.
struct Glu {
    float alpha = 1, limit = __builtin_inff(), offset = 0;
};

enum class Activation { Silu, Sigmoid };

struct Kernels {
    const char* name;
    // x[row] (normed when `norm` is given) into `out`: values when `values` is given, codes when `quantize`.
    void (*prepare_row)(const float* x, const float* norm, float eps, float* values, const PreparedRows& out, int row,
                        bool quantize);
    LinearKernel linear[kNumFormats];
    // Codes of `count` blocks of 32 columns of a row, from `block` on.
    void (*quantize_blocks)(const float* x, const PreparedRows& out, int row, int block, int count);
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, float* out, int count);
    void (*rope)(const RopeTask&);
    // One token's key or value [D] of one head into its slot of a KV block.
    void (*write_key)(const KvLayout&, uint8_t* head_block, int slot, const float* key);
    void (*write_value)(const KvLayout&, uint8_t* head_block, int slot, const float* value);
    void (*attend)(const AttentionTask&);
    // Combines `num_spans` states of each query, in order, and divides: states [num_spans][num_queries].
    void (*combine_states)(const AttentionTask&, const float* states, int num_spans);
    float (*largest)(const float* x, int count);  // magnitude; a NaN is above all
    // A row of a page: `width` values in the elements of `format`, zeros behind them up to a multiple of kRowColumns.
    // Of Int16 the codes of a row whose parts are no larger than `max`, and its scale.
    void (*keep_row)(RowFormat format, const float* x, int width, float max, uint8_t* out, float* scale);
    void (*attend_latents)(const LatentTask&);
    void (*rank_keys)(const RankTask&);
    void (*swiglu)(const float* gate, const float* up, float* out, int count, const Glu&);
    // x times the activation of the gate.
    void (*gate)(const float* x, const float* gate, float* out, int count, Activation);
    void (*add)(const float* a, const float* b, float* out, int count, float a_scale, float b_scale);
    // The scores of a router, from its logits.
    void (*softmax)(const float* x, float* out, int count);
    void (*sigmoid)(const float* x, float* out, int count);
    // sums += weight * x
    void (*accumulate)(float weight, const float* x, float* sums, int count);
    // Of states; rows padded to 16 (`unit_heads`: as they are).
    void (*convolve)(const ConvolutionTask&);
    void (*recur)(const RecurrenceTask&);
    void (*silu)(const float* x, float* out, int count);
    void (*decay)(const float* x, const float* bias, const float* rate, float* out, int count);
    void (*unit_heads)(const float* x, int num_heads, int head_dim, float scale, float* out);
    float (*max)(const float* x, int count);
    // sum of exp((x - max) * inverse_temperature); no x is above max.
    float (*exp_sum)(const float* x, int count, float max, float inverse_temperature);
};

inline constexpr int kMaxScoreRows = 12;               // queries of an attention tile at most
inline constexpr int kQueryStride = kMaxHeadDim + 16;  // not all of them in the same places of the cache

// What a tile's weights need as codes: the scales of a span's values, those of the weights, and codes of two bytes.
inline constexpr size_t kTileCodeFloats = kSpan + kMaxScoreRows * (kSpan / kKvBlock + kSpan / 2);

// Floats that AttentionTask::scratch must hold: a tile of queries, their scores, values, states and weights.
constexpr size_t attention_scratch_floats(int padded_dim) {
    return kMaxScoreRows * (size_t(kQueryStride) + kSpan + 2 * attention_state_floats(padded_dim)) + kTileCodeFloats;
}

// The tables that this machine can run, best first.
std::vector<const Kernels*> supported_kernels();
// The best, or the one that `name` (FREEHOLD_ISA) asks for; null if there is no such one here.
const Kernels* choose_kernels(const std::string& name);

}  // namespace freehold
