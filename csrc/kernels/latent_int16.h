// Rows of keys as 16-bit integers: see int16_codes.h. A score is summed in 32 bits over 512 columns, in 16 lanes, then
// by sum16's tree; values in 32 bits over 32 keys, and in float32 over these blocks in their order.
#pragma once

#include "kernels/int16_codes.h"
#include "kernels/kernels.h"
#include "kernels/rows.h"

namespace freehold {

template <class S>
struct Int16Rows {
    using F = typename S::F;
    using I = typename S::I;
    using P = typename S::P;
    static constexpr int V = kVectors16<S>;
    static constexpr int D = S::kDotRows;
    using Rows = RowKernels<S>;
    static constexpr int kColumns = 512;  // whose products fit into 32 bits, with kMaxSecondDim more
    static_assert((kColumns + kMaxSecondDim) / 16 * int64_t(kKeyLevels * kQueryLevels) < INT32_MAX);

    struct Queries {
        const int16_t* codes;  // [queries][dim]
        const float* scales;   // [queries]
        int dim;
    };

    static Queries prepare(const KeyRows& keys, const float* q, int count, float* scratch) {
        const int dim = keys.first_dim + keys.second_dim;
        const int padded = padded_queries(count);
        auto* codes = reinterpret_cast<int16_t*>(scratch);
        float* scales = scratch + size_t(padded) * size_t(dim) / 2;
        for (int i = 0; i < padded; i++) {
            const size_t at = size_t(i) * size_t(dim);
            scales[i] = Rows::quantize(q + at, dim, Rows::largest(q + at, dim), kQueryLevels, codes + at);
        }
        return {codes, scales, dim};
    }

    // out[i][key] (strides of kSpan) for D queries from `query` on and D keys: products over columns [begin, end) of
    // their first parts, added to those before, and then over their second parts if these were the last.
    FH_INLINE void tile(const KeyRows& keys, int first, const Queries& q, int query, int begin, int end, float* out) {
        I acc[D][D][V];
#pragma GCC unroll 4
        for (int i = 0; i < D; i++)
#pragma GCC unroll 4
            for (int j = 0; j < D; j++)
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) acc[i][j][v] = S::zero_int();
        const int16_t* codes = q.codes + query * q.dim;
        const auto multiply = [&](const uint8_t* const* rows, const int16_t* x, int from, int to) {
            for (int c = from; c < to; c += kRowColumns) {
                P k[D][V];
#pragma GCC unroll 4
                for (int j = 0; j < D; j++)
#pragma GCC unroll 4
                    for (int v = 0; v < V; v++) k[j][v] = load(rows[j], c + v * 2 * S::W);
#pragma GCC unroll 4
                for (int i = 0; i < D; i++)
#pragma GCC unroll 4
                    for (int v = 0; v < V; v++) {
                        const P pairs = S::load_pairs(x + i * q.dim + c + v * 2 * S::W);
#pragma GCC unroll 4
                        for (int j = 0; j < D; j++) acc[i][j][v] = S::dot_pairs(acc[i][j][v], pairs, k[j][v]);
                    }
            }
        };
        multiply(keys.first + first, codes, begin, end);
        if (end == keys.first_dim && keys.second_dim)
            multiply(keys.second + first, codes + keys.first_dim, 0, keys.second_dim);
#pragma GCC unroll 4
        for (int i = 0; i < D; i++) {
            F lanes[D][V];
#pragma GCC unroll 4
            for (int j = 0; j < D; j++)
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) lanes[j][v] = S::to_float(acc[i][j][v]);
            float sums[D];
            S::sums16(lanes, sums);
            float* scores = out + i * kSpan;
#pragma GCC unroll 4
            for (int j = 0; j < D; j++)
                scores[j] = sums[j] * (q.scales[query + i] * keys.scales[first + j]) + (begin ? scores[j] : 0.0f);
        }
    }

    // See FloatRows.
    static void score(const KeyRows& keys, const Queries& q, int query, int num_queries, int first, float* out) {
        for (int k = first; k < first + kKvBlock; k += D)
            for (int i = 0; i < num_queries; i += D)
                for (int c = 0; c < keys.first_dim; c += kColumns) {
                    const int end = c + kColumns < keys.first_dim ? c + kColumns : keys.first_dim;
                    tile(keys, k, q, query + i, c, end, out + i * kSpan + k);
                }
    }

    // out[r][column..column + 2 N W) = sum over keys of weights[r][key] * key, for kValueRows queries.
    template <int N>
    static void weigh(const KeyRows& keys, const int16_t* weights, const float* scales, int column, float* out,
                      size_t out_stride) {
        constexpr int R = S::kValueRows;
        for (int first = 0; first < keys.num_keys; first += kKvBlock) {
            I low[R][N], high[R][N];
            for (int r = 0; r < R; r++)
                for (int n = 0; n < N; n++) low[r][n] = high[r][n] = S::zero_int();
            for (int k = first; k < first + kKvBlock; k += 2) {
                P a[N], b[N];
                for (int n = 0; n < N; n++)
                    S::interleave(load(keys.first[k], column + n * 2 * S::W),
                                  load(keys.first[k + 1], column + n * 2 * S::W), a[n], b[n]);
                for (int r = 0; r < R; r++) {
                    const P pair = S::set1_pair(weights + r * kSpan + k);
                    for (int n = 0; n < N; n++) {
                        low[r][n] = S::dot_pairs(low[r][n], pair, a[n]);
                        high[r][n] = S::dot_pairs(high[r][n], pair, b[n]);
                    }
                }
            }
            for (int r = 0; r < R; r++)
                for (int n = 0; n < N; n++) {
                    const F scale = S::set1(scales[r * (kSpan / kKvBlock) + first / kKvBlock]);
                    float* to = out + r * out_stride + column + n * 2 * S::W;
                    F parts[2];
                    S::untangle(S::to_float(low[r][n]), S::to_float(high[r][n]), parts[0], parts[1]);
                    for (int i = 0; i < 2; i++)
                        S::store(to + i * S::W, S::fma(parts[i], scale, first ? S::load(to + i * S::W) : S::zero()));
                }
        }
    }
    FH_INLINE P load(const uint8_t* row, int column) {
        return S::load_pairs(reinterpret_cast<const int16_t*>(row) + column);
    }

    static void weigh_rows(const KeyRows& keys, float* weights, float* scratch, float* out, size_t out_stride) {
        auto* codes = reinterpret_cast<int16_t*>(scratch);  // [kValueRows][kSpan]
        float* scales = scratch + S::kValueRows * kSpan / 2;
        for (int r = 0; r < S::kValueRows; r++)
            quantize_weights<S>(weights + r * kSpan, keys.scales, 0, keys.num_keys, codes + r * kSpan,
                                scales + r * (kSpan / kKvBlock));
        constexpr int N = S::kValueVectors > 1 ? S::kValueVectors / 2 : 1;
        int column = 0;
        for (; column + N * 2 * S::W <= keys.first_dim; column += N * 2 * S::W)
            weigh<N>(keys, codes, scales, column, out, out_stride);
        for (; column < keys.first_dim; column += 2 * S::W) weigh<1>(keys, codes, scales, column, out, out_stride);
    }
};

}  // namespace freehold
