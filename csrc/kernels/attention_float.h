// Keys and values in float32, converted as they are read: keys with keys in lanes (score = q[0] k[0] + q[1] k[1] + ...
// channel after channel), values with channels in lanes (key after key). See AttentionKernels.
#pragma once

#include <cstring>

#include "kernels/kernels.h"

namespace freehold {

template <class S, KvFormat kv>
struct FloatKv {
    using F = typename S::F;
    static constexpr int kKeyVectors = kKvBlock / S::W;
    static constexpr int kLineBytes = kKvBlock * (kv == KvFormat::F32 ? 4 : 2);  // a channel's keys

    FH_INLINE F load_kv(const uint8_t* p, size_t element) {
        if constexpr (kv == KvFormat::BF16) return S::load_bf16(reinterpret_cast<const uint16_t*>(p) + element);
        return S::load(reinterpret_cast<const float*>(p) + element);
    }

    static void prepare_query(const AttentionTask& t, const float* from, float* q) {
        const int dim = t.layout->head_dim;
        for (int d = 0; d < dim; d++) q[d] = from[d] * t.scale;
        std::memset(q + dim, 0, size_t(t.layout->padded_dim() - dim) * sizeof(float));
    }

    template <int rows>
    static void score_block(const uint8_t* keys, const uint8_t* later, const AttentionTask& t, const float* q,
                            float* out) {
        const int dim = t.layout->padded_dim();
        const size_t keys_bytes = t.layout->keys_bytes();
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
            for (int v = 0; v < kKeyVectors; v++) S::store(out + r * kSpan + v * S::W, acc[r][v]);
    }

    // The weights of a span as they are.
    struct Weights {
        Weights(const AttentionTask& task, int block, int num_keys, float*)
            : t(task), first_block(block), keys(num_keys) {}
        void prepare(int, float*, int, int) {}

        // out[r][d0..d0 + N * W) = sum over keys of p[r][key] v[key].
        template <int rows, int N>
        void weigh(const float* p, int d0, float* out, size_t out_stride) const {
            const int dim = t.layout->padded_dim();
            F acc[rows][N];
            for (int r = 0; r < rows; r++)
                for (int n = 0; n < N; n++) acc[r][n] = S::zero();
            for (int k0 = 0; k0 < keys; k0 += kKvBlock) {
                const uint8_t* values = t.head_block(first_block + k0 / kKvBlock) + t.layout->keys_bytes();
                const int n_keys = keys - k0 < kKvBlock ? keys - k0 : kKvBlock;
                for (int k = 0; k < n_keys; k++) {
                    F v[N];
                    for (int n = 0; n < N; n++) v[n] = load_kv(values, size_t(k) * dim + d0 + n * S::W);
                    for (int r = 0; r < rows; r++) {
                        const F pw = S::set1(p[r * kSpan + k0 + k]);
                        for (int n = 0; n < N; n++) acc[r][n] = S::fma(pw, v[n], acc[r][n]);
                    }
                }
            }
            for (int r = 0; r < rows; r++)
                for (int n = 0; n < N; n++) S::store(out + r * out_stride + d0 + n * S::W, acc[r][n]);
        }

        template <int rows>
        void weigh_rows(int, const float* p, float* out, size_t out_stride) const {
            constexpr int N = S::kValueVectors;
            const int dim = t.layout->padded_dim();
            int d0 = 0;
            for (; d0 + N * S::W <= dim; d0 += N * S::W) weigh<rows, N>(p, d0, out, out_stride);
            for (; d0 < dim; d0 += S::W) weigh<rows, 1>(p, d0, out, out_stride);
        }

        const AttentionTask& t;
        int first_block, keys;
    };
};

}  // namespace freehold
