// Attention of many query heads on one row per key (latent attention), and the ranks of keys that an indexer gives.
//
// Keys lie as rows, found by pointers, so that a span may be keys side by side or keys that were selected. How rows and
// queries are multiplied is said by FloatRows (bf16 and float32) and Int16Rows (latent_int16.h). Each span of 256 keys
// has its own maximum and sum, and is combined into a query's state after those before it. No figure depends on the
// other queries of a task.
// Threading: a task is some heads of one token over one span.
#pragma once

#include "kernels/kernels.h"
#include "kernels/latent_int16.h"
#include "kernels/softmax.h"
#include "kernels/vector_math.h"

namespace freehold {

// Float32 throughout, rows converted as they are read. A product q . key is summed over 16 lanes of columns, the first
// part's before the second's, then by sum16's tree; values are summed key after key with channels in lanes.
template <class S, RowFormat format>
struct FloatRows {
    using F = typename S::F;
    static constexpr int V = kVectors16<S>;
    static constexpr int D = S::kDotRows;
    using Queries = const float*;

    static Queries prepare(const KeyRows&, const float* q, int, float*) { return q; }

    FH_INLINE F load(const uint8_t* row, int column) {
        if constexpr (format == RowFormat::BF16) return S::load_bf16(reinterpret_cast<const uint16_t*>(row) + column);
        return S::load(reinterpret_cast<const float*>(row) + column);
    }

    // out[query][key] (strides of kSpan) for D queries and D keys: products over the `first_dim` columns of their first
    // parts, then the others. Its loops must be unrolled before the sums can live in registers: 1.6 times as fast.
    FH_INLINE void tile(const KeyRows& keys, int first, const float* q, float* out) {
        const int stride = keys.first_dim + keys.second_dim;
        F acc[D][D][V];
#pragma GCC unroll 4
        for (int i = 0; i < D; i++)
#pragma GCC unroll 4
            for (int j = 0; j < D; j++)
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) acc[i][j][v] = S::zero();
        const auto multiply = [&](const uint8_t* const* rows, const float* x, int dim) {
            for (int c = 0; c < dim; c += 16) {
                F k[D][V];
#pragma GCC unroll 4
                for (int j = 0; j < D; j++)
#pragma GCC unroll 4
                    for (int v = 0; v < V; v++) k[j][v] = load(rows[j], c + v * S::W);
#pragma GCC unroll 4
                for (int i = 0; i < D; i++)
#pragma GCC unroll 4
                    for (int v = 0; v < V; v++) {
                        const F part = S::load(x + i * stride + c + v * S::W);
#pragma GCC unroll 4
                        for (int j = 0; j < D; j++) acc[i][j][v] = S::fma(part, k[j][v], acc[i][j][v]);
                    }
            }
        };
        multiply(keys.first + first, q, keys.first_dim);
        if (keys.second_dim) multiply(keys.second + first, q + keys.first_dim, keys.second_dim);
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) S::sums16(acc[i], out + i * kSpan);
    }

    // out[i][key] for `num_queries` (a multiple of kQueryGroup) from `query` on and the keys of a block from `first`
    // on. A few keys are multiplied with all queries before the next, so that they are read once.
    static void score(const KeyRows& keys, Queries q, int query, int num_queries, int first, float* out) {
        const int width = keys.first_dim + keys.second_dim;
        for (int k = first; k < first + kKvBlock; k += D)
            for (int i = 0; i < num_queries; i += D) tile(keys, k, q + (query + i) * width, out + i * kSpan + k);
    }

    // out[r][column..column + N * W) = sum over keys of weights[r][key] * key, for kValueRows queries.
    template <int N>
    static void weigh(const KeyRows& keys, const float* weights, int column, float* out, size_t out_stride) {
        constexpr int R = S::kValueRows;
        F acc[R][N];
        for (auto& row : acc)
            for (F& v : row) v = S::zero();
        for (int k = 0; k < keys.num_keys; k++) {
            F v[N];
            for (int n = 0; n < N; n++) v[n] = load(keys.first[k], column + n * S::W);
            for (int r = 0; r < R; r++) {
                const F weight = S::set1(weights[r * kSpan + k]);
                for (int n = 0; n < N; n++) acc[r][n] = S::fma(weight, v[n], acc[r][n]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) S::store(out + r * out_stride + column + n * S::W, acc[r][n]);
    }

    static void weigh_rows(const KeyRows& keys, const float* weights, float*, float* out, size_t out_stride) {
        constexpr int N = S::kValueVectors;
        int column = 0;
        for (; column + N * S::W <= keys.first_dim; column += N * S::W)
            weigh<N>(keys, weights, column, out, out_stride);
        for (; column < keys.first_dim; column += S::W) weigh<1>(keys, weights, column, out, out_stride);
    }
};

template <class S, class Rows>
struct LatentKernels {
    using F = typename S::F;
    using Softmax = SpanSoftmax<S>;
    static_assert(kQueryGroup % S::kDotRows == 0 && kQueryGroup % S::kValueRows == 0 && kKvBlock % S::kDotRows == 0);

    static void attend(const LatentTask& t) {
        const KeyRows& keys = t.keys;
        const int rank = keys.first_dim;
        const size_t stride = attention_state_floats(rank);
        float* scores = t.scratch;                        // [kLatentQueries][kSpan]
        float* values = scores + kLatentQueries * kSpan;  // [kLatentQueries][stride]
        float* weight_codes = values + kLatentQueries * stride;
        const auto queries = Rows::prepare(keys, t.q, t.num_queries, weight_codes + kWeightCodeFloats);
        const int padded = padded_queries(t.num_queries);
        for (int first = 0; first < keys.num_keys; first += kKvBlock)
            Rows::score(keys, queries, 0, padded, first, scores);
        for (int i = 0; i < t.num_queries; i += S::kValueRows) {
            const int count = t.num_queries - i < S::kValueRows ? t.num_queries - i : S::kValueRows;
            SoftmaxSum heads[S::kValueRows];
            for (int r = 0; r < count; r++) heads[r] = Softmax::softmax(scores + (i + r) * kSpan, keys.num_keys);
            Rows::weigh_rows(keys, scores + i * kSpan, weight_codes, values + i * stride, stride);
            for (int r = 0; r < count; r++)
                Softmax::combine(t.states + (i + r) * stride, heads[r], values + (i + r) * stride, rank);
        }
    }

    static void rank(const RankTask& t) {
        const int padded = (t.keys.num_keys + kKvBlock - 1) / kKvBlock * kKvBlock;
        const auto queries = Rows::prepare(t.keys, t.q, t.num_heads, t.scratch + kQueryGroup * kSpan);
        for (int k = 0; k < padded; k += S::W) S::store(t.ranks + k, S::zero());
        for (int head = 0; head < t.num_heads; head += kQueryGroup) {
            for (int first = 0; first < padded; first += kKvBlock)
                Rows::score(t.keys, queries, head, kQueryGroup, first, t.scratch);
            for (int r = 0; r < kQueryGroup && head + r < t.num_heads; r++) {
                const F weight = S::set1(t.weights[head + r]);
                for (int k = 0; k < padded; k += S::W) {
                    const F score = S::max(S::zero(), S::load(t.scratch + r * kSpan + k));  // a NaN stays
                    S::store(t.ranks + k, S::fma(weight, score, S::load(t.ranks + k)));
                }
            }
        }
    }
};

// Picks the format's instance.
template <class S>
struct LatentDispatch {
    static void attend(const LatentTask& t) {
        if (t.keys.format == RowFormat::Int16) return LatentKernels<S, Int16Rows<S>>::attend(t);
        if (t.keys.format == RowFormat::BF16) return LatentKernels<S, FloatRows<S, RowFormat::BF16>>::attend(t);
        LatentKernels<S, FloatRows<S, RowFormat::F32>>::attend(t);
    }
    static void rank(const RankTask& t) {
        if (t.keys.format == RowFormat::Int16) return LatentKernels<S, Int16Rows<S>>::rank(t);
        if (t.keys.format == RowFormat::BF16) return LatentKernels<S, FloatRows<S, RowFormat::BF16>>::rank(t);
        LatentKernels<S, FloatRows<S, RowFormat::F32>>::rank(t);
    }
};

}  // namespace freehold
