// Keys and values as integers of 8 or 16 bits, two channels of a key or two keys of a channel side by side, multiplied
// as integers of 16 bits: see int16_codes.h.
// A score is summed in 32 bits over 64 channels, and in float32 over these; values in 32 bits over a block of 32 keys,
// and in float32 over the blocks. See AttentionKernels.
#pragma once

#include <cstring>

#include "kernels/int16_codes.h"
#include "kernels/kernels.h"

namespace freehold {

template <class S, class Code>
struct IntegerKv {
    using F = typename S::F;
    using I = typename S::I;
    using P = typename S::P;
    using Rows = RowKernels<S>;
    static constexpr int kKeyVectors = kKvBlock / S::W;
    static constexpr int kChannels = 64;  // whose products fit into 32 bits
    static_assert(kChannels * int64_t(kKeyLevels * kQueryLevels) < INT32_MAX);
    static_assert(kKvBlock * int64_t(kKeyLevels * kWeightLevels) < INT32_MAX);

    FH_INLINE const Code* codes(const void* p) { return static_cast<const Code*>(p); }

    // A query's codes, and behind them the scale of its scores.
    static void prepare_query(const AttentionTask& t, const float* from, float* q) {
        const int dim = t.layout->head_dim;
        const float max = Rows::largest(from, dim);
        q[kMaxHeadDim] = t.scale * Rows::quantize(from, dim, max, kQueryLevels, reinterpret_cast<int16_t*>(q));
    }

    // Channels begin..end of score_block, added to those before.
    template <int rows>
    FH_INLINE void score_channels(const uint8_t* keys, const uint8_t* later, const AttentionTask& t, const float* q,
                                  int begin, int end, float* out) {
        const size_t keys_bytes = t.layout->keys_bytes();
        I acc[rows][kKeyVectors];
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int v = 0; v < kKeyVectors; v++) acc[r][v] = S::zero_int();
        for (int d = begin; d < end; d += 2) {
            const size_t at = size_t(d) * kKvBlock;
            if (t.is_streamed)
                for (size_t line = at * sizeof(Code); line < (at + 2 * kKvBlock) * sizeof(Code); line += 64) {
                    __builtin_prefetch(keys + keys_bytes + line, 0, 2);
                    if (later) __builtin_prefetch(later + line, 0, 2);
                }
            P k[kKeyVectors];
            for (int v = 0; v < kKeyVectors; v++) k[v] = S::load_pairs(codes(keys) + at + 2 * v * S::W);
            for (int r = 0; r < rows; r++) {
                const P pair = S::set1_pair(reinterpret_cast<const int16_t*>(q + r * kQueryStride) + d);
                for (int v = 0; v < kKeyVectors; v++) acc[r][v] = S::dot_pairs(acc[r][v], pair, k[v]);
            }
        }
        F scales[kKeyVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kKeyVectors; v++) scales[v] = S::load(t.layout->key_scales(keys) + v * S::W);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const F q_scale = S::set1(q[r * kQueryStride + kMaxHeadDim]);
#pragma GCC unroll 4
            for (int v = 0; v < kKeyVectors; v++) {
                float* to = out + r * kSpan + v * S::W;
                const F score = S::mul(S::to_float(acc[r][v]), S::mul(q_scale, scales[v]));
                S::store(to, begin ? S::add(S::load(to), score) : score);
            }
        }
    }

    template <int rows>
    static void score_block(const uint8_t* keys, const uint8_t* later, const AttentionTask& t, const float* q,
                            float* out) {
        const int dim = t.layout->padded_dim();
        if (t.is_streamed)
            for (size_t line = 2 * t.layout->keys_bytes(); line < t.layout->head_bytes(); line += 64) {
                __builtin_prefetch(keys + line, 0, 2);
                if (later) __builtin_prefetch(later + line, 0, 2);
            }
        for (int begin = 0; begin < dim; begin += kChannels)
            score_channels<rows>(keys, later, t, q, begin, begin + kChannels < dim ? begin + kChannels : dim, out);
    }

    // The weights of a span: codes, with a scale for each block of keys.
    struct Weights {
        // `memory`: kTileCodeFloats.
        Weights(const AttentionTask& task, int block, int num_keys, float* memory)
            : t(task),
              first_block(block),
              keys(num_keys),
              value_scales(memory),
              scales(memory + kSpan),
              weights(reinterpret_cast<int16_t*>(scales + kMaxScoreRows * kBlocks)) {
            for (int k = 0; k < keys; k += kKvBlock)
                std::memcpy(value_scales + k, t.layout->value_scales(t.head_block(block + k / kKvBlock)),
                            kKvBlock * sizeof(float));
        }

        // Row r, of which keys hidden..visible weigh something.
        void prepare(int r, float* p, int hidden, int visible) {
            const int done = (visible + kKvBlock - 1) / kKvBlock * kKvBlock;
            quantize_weights<S>(p, value_scales, hidden, visible, weights + r * kSpan, scales + r * kBlocks);
            for (int k = done; k < keys; k += kKvBlock) {
                scales[r * kBlocks + k / kKvBlock] = 0;
                std::memset(weights + r * kSpan + k, 0, kKvBlock * sizeof(int16_t));
            }
        }

        // out[r][d0..d0 + N * W) = sum over keys of weights[row + r][key] v[key].
        template <int rows, int N>
        void weigh(int row, int d0, float* out, size_t out_stride) const {
            const int dim = t.layout->padded_dim();
            F sums[rows][N];
            for (int r = 0; r < rows; r++)
                for (int n = 0; n < N; n++) sums[r][n] = S::zero();
            for (int k0 = 0; k0 < keys; k0 += kKvBlock) {
                const auto* values = codes(t.head_block(first_block + k0 / kKvBlock) + t.layout->keys_bytes());
                const int n_keys = keys - k0 < kKvBlock ? keys - k0 : kKvBlock;
                I acc[rows][N];
                for (int r = 0; r < rows; r++)
                    for (int n = 0; n < N; n++) acc[r][n] = S::zero_int();
                for (int k = 0; k < n_keys; k += 2) {
                    P v[N];
                    for (int n = 0; n < N; n++) v[n] = S::load_pairs(values + size_t(k) * dim + 2 * (d0 + n * S::W));
                    for (int r = 0; r < rows; r++) {
                        const P pair = S::set1_pair(weights + (row + r) * kSpan + k0 + k);
                        for (int n = 0; n < N; n++) acc[r][n] = S::dot_pairs(acc[r][n], pair, v[n]);
                    }
                }
                for (int r = 0; r < rows; r++) {
                    const F scale = S::set1(scales[(row + r) * kBlocks + k0 / kKvBlock]);
                    for (int n = 0; n < N; n++) sums[r][n] = S::fma(S::to_float(acc[r][n]), scale, sums[r][n]);
                }
            }
            for (int r = 0; r < rows; r++)
                for (int n = 0; n < N; n++) S::store(out + r * out_stride + d0 + n * S::W, sums[r][n]);
        }

        template <int rows>
        void weigh_rows(int row, const float*, float* out, size_t out_stride) const {
            constexpr int N = S::kValueVectors > 1 ? S::kValueVectors / 2 : 1;  // a sum has two accumulators
            const int dim = t.layout->padded_dim();
            int d0 = 0;
            for (; d0 + N * S::W <= dim; d0 += N * S::W) weigh<rows, N>(row, d0, out, out_stride);
            for (; d0 < dim; d0 += S::W) weigh<rows, 1>(row, d0, out, out_stride);
        }

        static constexpr int kBlocks = kSpan / kKvBlock;
        const AttentionTask& t;
        int first_block, keys;
        float *value_scales, *scales;  // [kSpan], [kMaxScoreRows][kBlocks]
        int16_t* weights;              // [kMaxScoreRows][kSpan]
    };
};

}  // namespace freehold
