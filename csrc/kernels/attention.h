// Grouped-query attention over paged keys and values, softmax span by span.
//
// Keys are read with keys in lanes (score = q[0] k[0] + q[1] k[1] + ... channel after channel), values with channels
// in lanes (key after key); float32 throughout, KV converted as it is read. Each span of 256 keys has its own maximum
// and sum; spans are combined in the order of their positions. Every figure is therefore the same whether a query
// comes alone or in a tile, and whether spans are taken by one thread or by several.
// Threading: a task is one tile of queries for one KV head, over some spans.
// Speed: 84 GFLOP/s of a core of Zen 4 with AVX-512, for 512 tokens and heads of 64; its multiply-adds alone give 117.
#pragma once

#include <cstring>

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace freehold {

template <class S, KvFormat kv>
struct AttentionKernels {
    using F = typename S::F;
    static constexpr int R = S::kScoreRows;  // queries of a group; a lone token's heads are fewer, in smaller tiles
    static constexpr int kFewRows = S::kValueRows;
    static_assert(R % kFewRows == 0 && R % S::kManyValueRows == 0 && R <= kMaxScoreRows);
    static constexpr int kKeyVectors = kKvBlock / S::W;
    static constexpr int kLineBytes = kKvBlock * (kv == KvFormat::F32    ? 4
                                                  : kv == KvFormat::Int8 ? 1
                                                                         : 2);  // a channel's keys

    FH_INLINE F load_kv(const uint8_t* p, size_t element) {
        if constexpr (kv == KvFormat::F16) return S::load_half(reinterpret_cast<const uint16_t*>(p) + element);
        if constexpr (kv == KvFormat::BF16) return S::load_bf16(reinterpret_cast<const uint16_t*>(p) + element);
        if constexpr (kv == KvFormat::Int8) return S::load_s8(reinterpret_cast<const int8_t*>(p) + element);
        return S::load(reinterpret_cast<const float*>(p) + element);
    }

    static const uint8_t* head_block(const AttentionTask& t, int block) {
        return t.kv + size_t(t.pages[block]) * t.page_bytes;
    }

    // Scores of `rows` queries (q: [rows][kQueryStride], scaled) against the 32 keys of a block: out[r][0..32).
    // Of a streamed task this block's values and the keys of `later` (or null) are fetched meanwhile.
    template <int rows>
    static void score_block(const uint8_t* keys, const uint8_t* later, const AttentionTask& t, const float* q,
                            float* out) {
        const int dim = t.layout->padded_dim();
        const size_t keys_bytes = t.layout->keys_bytes();
        const auto* key_scales = reinterpret_cast<const float*>(keys + 2 * keys_bytes);
        F acc[rows][kKeyVectors];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < kKeyVectors; v++) acc[r][v] = S::zero();
        for (int d = 0; d < dim; d++) {
            if (t.is_streamed)
                for (int at = 0; at < kLineBytes; at += 64) {
                    __builtin_prefetch(keys + keys_bytes + size_t(d) * kLineBytes + at, 0, 2);
                    if (later) __builtin_prefetch(later + size_t(d) * kLineBytes + at, 0, 2);
                }
            F k[kKeyVectors];
            for (int v = 0; v < kKeyVectors; v++) k[v] = load_kv(keys, size_t(d) * kKvBlock + v * S::W);
            for (int r = 0; r < rows; r++) {
                const F qd = S::set1(q[r * kQueryStride + d]);
                for (int v = 0; v < kKeyVectors; v++) acc[r][v] = S::fma(qd, k[v], acc[r][v]);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < kKeyVectors; v++) {
                if constexpr (kv == KvFormat::Int8) acc[r][v] = S::mul(acc[r][v], S::load(key_scales + v * S::W));
                S::store(out + r * kSpan + v * S::W, acc[r][v]);
            }
    }

    static auto score_of(int queries) {
        if (queries <= kFewRows) return score_block<kFewRows>;
        if constexpr (R > 2 * kFewRows)
            if (queries <= 2 * kFewRows) return score_block<2 * kFewRows>;
        return score_block<R>;
    }

    // scores[0..keys) become exponentials (zeros up to the next multiple of 32); returns maximum and sum.
    static SoftmaxSum softmax(float* scores, int keys) {
        constexpr int V = kVectors16<S>;
        const int padded = (keys + kKvBlock - 1) / kKvBlock * kKvBlock;
        for (int k = keys; k < padded; k++) scores[k] = -__builtin_inff();
        F largest[V], sum[V];
        for (int v = 0; v < V; v++) largest[v] = S::set1(-__builtin_inff()), sum[v] = S::zero();
        for (int k = 0; k < padded; k += 16)
            for (int v = 0; v < V; v++) largest[v] = S::max(largest[v], S::load(scores + k + v * S::W));
        const float max = S::max16(largest);
        for (int k = 0; k < padded; k += 16)
            for (int v = 0; v < V; v++) {
                const F p = exp_nonpositive<S>(S::sub(S::load(scores + k + v * S::W), S::set1(max)));
                S::store(scores + k + v * S::W, p);
                sum[v] = S::add(sum[v], p);
            }
        return {max, S::sum16(sum)};
    }

    // out[r][d0..d0+N*W) = sum over keys of p[r][key] v[key]: `p` strides by kSpan, `out` by out_stride.
    template <int rows, int N>
    static void weigh(const AttentionTask& t, const float* p, int first_block, int keys, int d0, float* out,
                      size_t out_stride) {
        const int dim = t.layout->padded_dim();
        F acc[rows][N];
        for (int r = 0; r < rows; r++)
            for (int n = 0; n < N; n++) acc[r][n] = S::zero();
        for (int k0 = 0; k0 < keys; k0 += kKvBlock) {
            const uint8_t* values = head_block(t, first_block + k0 / kKvBlock) + t.layout->keys_bytes();
            const auto* scales = reinterpret_cast<const float*>(values + t.layout->keys_bytes()) + kKvBlock;
            const int n_keys = keys - k0 < kKvBlock ? keys - k0 : kKvBlock;
            for (int k = 0; k < n_keys; k++) {
                F v[N];
                for (int n = 0; n < N; n++) v[n] = load_kv(values, size_t(k) * dim + d0 + n * S::W);
                for (int r = 0; r < rows; r++) {
                    float weight = p[r * kSpan + k0 + k];
                    if constexpr (kv == KvFormat::Int8) weight *= scales[k];
                    const F pw = S::set1(weight);
                    for (int n = 0; n < N; n++) acc[r][n] = S::fma(pw, v[n], acc[r][n]);
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int n = 0; n < N; n++) S::store(out + r * out_stride + d0 + n * S::W, acc[r][n]);
    }

    template <int rows>
    static void weigh_rows(const AttentionTask& t, const float* p, int first_block, int keys, float* out,
                           size_t out_stride) {
        constexpr int N = S::kValueVectors;
        const int dim = t.layout->padded_dim();
        int d0 = 0;
        for (; d0 + N * S::W <= dim; d0 += N * S::W) weigh<rows, N>(t, p, first_block, keys, d0, out, out_stride);
        for (; d0 < dim; d0 += S::W) weigh<rows, 1>(t, p, first_block, keys, d0, out, out_stride);
    }

    static void combine(float* state, SoftmaxSum next, const float* values, int dim) {
        const float max = larger(state[0], next.max);
        const float keep = exp_nonpositive1<S>(state[0] - max), take = exp_nonpositive1<S>(next.max - max);
        state[0] = max;
        state[1] = state[1] * keep + next.sum * take;
        const F keeps = S::set1(keep), takes = S::set1(take);
        for (int d = 0; d < dim; d += S::W)
            S::store(state + kStateValues + d,
                     S::fma(S::load(values + d), takes, S::mul(S::load(state + kStateValues + d), keeps)));
    }

    static void clear(float* state, int dim) {
        state[0] = -__builtin_inff();
        state[1] = 0;
        std::memset(state + kStateValues, 0, size_t(dim) * sizeof(float));
    }

    static void divide(const AttentionTask& t, int query, const float* state) {
        float* out = t.out + size_t(query / t.group) * t.out_stride + size_t(query % t.group) * t.layout->head_dim;
        float keep = 1, sum = state[1];
        if (t.sinks) {
            const float sink = t.sinks[query % t.group], max = larger(state[0], sink);
            keep = exp_nonpositive1<S>(state[0] - max);
            sum = sum * keep + exp_nonpositive1<S>(sink - max);
        }
        for (int d = 0; d < t.layout->head_dim; d++) out[d] = state[kStateValues + d] * keep / sum;
    }

    // The first key that the query at `position` sees.
    static int first_key(const AttentionTask& t, int position) {
        if (t.window) return position + 1 - t.window;
        return t.chunk ? position / t.chunk * t.chunk : 0;
    }

    // Up to R queries from `first` on, over the task's spans, into their states.
    static void attend_group(const AttentionTask& t, int first, int count, float* states, float* scratch) {
        const int dim = t.layout->padded_dim();
        const size_t stride = attention_state_floats(dim);
        float* q = scratch;                    // [R][kQueryStride], zeros behind the head's channels
        float* scores = q + R * kQueryStride;  // [R][kSpan]
        float* values = scores + R * kSpan;    // [R][stride]
        const auto score = score_of(count);
        const bool many = count > 2 * kFewRows;
        const auto weigh = many ? weigh_rows<S::kManyValueRows> : weigh_rows<kFewRows>;
        for (int r = 0; r < R; r++) std::memset(q + r * kQueryStride, 0, size_t(dim) * sizeof(float));
        for (int r = 0; r < count; r++) {
            const int query = first + r;
            const float* from =
                t.q + size_t(query / t.group) * t.q_stride + size_t(query % t.group) * t.layout->head_dim;
            for (int d = 0; d < t.layout->head_dim; d++) q[r * kQueryStride + d] = from[d] * t.scale;
            clear(states + r * stride, dim);
        }
        const int last_position = t.position + (first + count - 1) / t.group;
        for (int span = t.span0; span < t.span1 && span * kSpan <= last_position; span++) {
            const int start = span * kSpan, first_block = start / kKvBlock;
            if (start + kSpan <= first_key(t, t.position + first / t.group)) continue;
            const int keys = last_position + 1 - start < kSpan ? last_position + 1 - start : kSpan;
            for (int k = 0; k < keys; k += kKvBlock) {
                const uint8_t* block = head_block(t, first_block + k / kKvBlock);
                const bool more = k + kKvBlock < keys;
                const uint8_t* later = more ? head_block(t, first_block + k / kKvBlock + 1) : t.next_keys;
                score(block, later, t, q, scores + k);
            }
            SoftmaxSum heads[R];
            for (int r = 0; r < count; r++) {
                const int position = t.position + (first + r) / t.group, behind = position + 1 - start;
                const int visible = behind < keys ? behind : keys, hidden = first_key(t, position) - start;
                const bool some = visible > 0 && hidden < visible;
                for (int k = 0; some && k < hidden; k++) scores[r * kSpan + k] = -__builtin_inff();
                heads[r] = some ? softmax_visible(scores + r * kSpan, visible, keys) : SoftmaxSum{-__builtin_inff(), 0};
                if (!some) std::memset(scores + r * kSpan, 0, kSpan * sizeof(float));
            }
            for (int r = 0; r < count;
                 r += many ? S::kManyValueRows : kFewRows)  // scores of rows past `count` are zero
                weigh(t, scores + r * kSpan, first_block, keys, values + r * stride, stride);
            for (int r = 0; r < count; r++)
                if (heads[r].max != -__builtin_inff() || heads[r].sum != 0)
                    combine(states + r * stride, heads[r], values + r * stride, dim);
        }
    }

    // As softmax; keys visible..keys of the tile, which later queries see, weigh nothing.
    static SoftmaxSum softmax_visible(float* scores, int visible, int keys) {
        const SoftmaxSum head = softmax(scores, visible);
        const int done = (visible + kKvBlock - 1) / kKvBlock * kKvBlock;
        if (done < keys) std::memset(scores + done, 0, size_t(keys - done) * sizeof(float));
        return head;
    }

    static void attend(const AttentionTask& t) {
        const int queries = t.num_rows * t.group;
        const size_t stride = attention_state_floats(t.layout->padded_dim());
        float* local = t.scratch;  // [R][stride], when the states do not outlive the task
        float* scratch = t.scratch + R * stride;
        for (int first = 0; first < queries; first += R) {
            const int count = queries - first < R ? queries - first : R;
            float* states = t.states ? t.states + first * stride : local;
            attend_group(t, first, count, states, scratch);
            if (!t.states)
                for (int r = 0; r < count; r++) divide(t, first + r, states + r * stride);
        }
    }

    static void combine_states(const AttentionTask& t, const float* states, int num_spans) {
        const int dim = t.layout->padded_dim(), queries = t.num_rows * t.group;
        const size_t stride = attention_state_floats(dim);
        for (int query = 0; query < queries; query++) {
            clear(t.scratch, dim);
            for (int span = 0; span < num_spans; span++) {
                const float* state = states + (size_t(span) * queries + query) * stride;
                if (state[0] != -__builtin_inff() || state[1] != 0)
                    combine(t.scratch, {state[0], state[1]}, state + kStateValues, dim);
            }
            divide(t, query, t.scratch);
        }
    }
};

// Picks the format's instance.
template <class S>
struct AttentionDispatch {
    static void attend(const AttentionTask& t) {
        switch (t.layout->format) {
            case KvFormat::F16:
                return AttentionKernels<S, KvFormat::F16>::attend(t);
            case KvFormat::BF16:
                return AttentionKernels<S, KvFormat::BF16>::attend(t);
            case KvFormat::Int8:
                return AttentionKernels<S, KvFormat::Int8>::attend(t);
            case KvFormat::F32:
                return AttentionKernels<S, KvFormat::F32>::attend(t);
        }
    }
    static void combine_states(const AttentionTask& t, const float* states, int num_spans) {
        AttentionKernels<S, KvFormat::F32>::combine_states(t, states, num_spans);
    }
};

}  // namespace freehold
