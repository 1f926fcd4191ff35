// Kernels of layers that keep a state: causal convolutions and linear attention with a decay.
//
// Layout: a slice of a state is [C][kStateColumns], C key channels by some value channels, in float32; rows come in the
// order of their positions. Accumulation in float32: sums over key channels are four partial ones, of every fourth
// channel, added as (0 + 1) + (2 + 3); a row after the other, so that chunks and neighbours change no bit.
// Threading: the program gives slices (head, columns) of a request to threads, which share nothing.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace freehold {

template <class S>
struct StateKernels {
    using F = typename S::F;
    static constexpr int V = kVectors16<S>, kPartial = 4;

    // log(1 + u) for u in [0, 1], within 2 units in the last place: 2 atanh(u / (2 + u)) as a series.
    static F log1p(F u) {
        const F s = S::div(u, S::add(u, S::set1(2.0f))), square = S::mul(s, s);
        F p = S::set1(1.0f / 15);
        for (int n : {13, 11, 9, 7, 5, 3, 1}) p = S::fma(p, square, S::set1(1.0f / float(n)));
        return S::mul(S::add(s, s), p);
    }

    // out = f(x), 16 columns at a time; x and out are padded to 16.
    template <class Function>
    static void map(float* out, int count, Function f) {
        for (int c = 0; c < count; c += S::W) S::store(out + c, f(c));
    }

    static void silu(const float* x, float* out, int count) {
        map(out, count, [&](int c) { return S::mul(S::load(x + c), sigmoid<S>(S::load(x + c))); });
    }

    // exp(-rate * softplus(x + bias)), softplus(y) = max(y, 0) + log(1 + exp(-|y|)).
    static void decay(const float* x, const float* bias, const float* rate, float* out, int count) {
        map(out, count, [&](int c) {
            const F y = S::add(S::load(x + c), S::load(bias + c));
            const F softplus = S::add(S::max(y, S::zero()), log1p(exp_nonpositive<S>(S::sub(S::zero(), S::abs(y)))));
            return exp_nonpositive<S>(S::sub(S::zero(), S::mul(S::load(rate + c), softplus)));
        });
    }

    // Each head divided by sqrt(sum of squares + 1e-6), times `scale`.
    static void unit_heads(const float* x, int num_heads, int head_dim, float scale, float* out) {
        for (int head = 0; head < num_heads; head++, x += head_dim, out += head_dim) {
            float lanes[16] = {};
            for (int c = 0; c < head_dim; c++) lanes[c % 16] = std::fma(x[c], x[c], lanes[c % 16]);
            for (int half = 8; half; half /= 2)
                for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
            const float factor = scale / std::sqrt(lanes[0] + 1e-6f);
            for (int c = 0; c < head_dim; c++) out[c] = x[c] * factor;
        }
    }

    static void convolve(const ConvolutionTask& t) {
        for (int row = 0; row < t.num_rows; row++)
            for (int c = 0; c < t.count; c += S::W) {
                F sum = S::zero();
                for (int tap = 0; tap < t.taps; tap++)
                    sum = S::fma(S::load(t.weight + tap * t.weight_stride + c), S::load(t.rows[row + tap] + c), sum);
                S::store(t.out + row * t.out_stride + c, S::mul(sum, sigmoid<S>(sum)));
            }
    }

    using Partial = F[kPartial][V];

    static void clear(Partial& sums) {
        for (auto& sum : sums)
            for (F& lane : sum) lane = S::zero();
    }
    static F total(const Partial& sums, int i) {
        return S::add(S::add(sums[0][i], sums[1][i]), S::add(sums[2][i], sums[3][i]));
    }

    // f(channel, partial sum) for all key channels, four at a time.
    template <class Function>
    static void for_channels(int count, Function f) {
        int c = 0;
        for (; c + kPartial <= count; c += kPartial) {
            f(c, 0);
            f(c + 1, 1);
            f(c + 2, 2);
            f(c + 3, 3);
        }
        for (; c < count; c++) f(c, c % kPartial);
    }

    // 16 value channels of a row: S <- decay S; S <- S + k change^T; out = S^T q.
    template <bool delta, bool per_channel>
    static void advance16(const RecurrenceTask& t, int row, float* state, const float* v, float* out) {
        const float *q = t.q + row * t.q_stride, *k = t.k + row * t.k_stride;
        const float* decay = t.decay + row * t.decay_stride;
        const F whole = S::set1(decay[0]);
        const auto kept = [&](int c, int i) {
            return S::mul(S::load(state + c * kStateColumns + i * S::W), per_channel ? S::set1(decay[c]) : whole);
        };
        F change[V];
        for (int i = 0; i < V; i++) change[i] = S::load(v + i * S::W);
        if constexpr (delta) {
            Partial seen;
            clear(seen);
            for_channels(t.key_dim, [&](int c, int n) {
                const F key = S::set1(k[c]);
                for (int i = 0; i < V; i++) seen[n][i] = S::fma(kept(c, i), key, seen[n][i]);
            });
            const F strength = S::set1(t.strength[row * t.strength_stride]);
            for (int i = 0; i < V; i++) change[i] = S::mul(strength, S::sub(change[i], total(seen, i)));
        }
        Partial sums;
        clear(sums);
        for_channels(t.key_dim, [&](int c, int n) {
            const F key = S::set1(k[c]), query = S::set1(q[c]);
            for (int i = 0; i < V; i++) {
                const F next = S::fma(key, change[i], kept(c, i));
                S::store(state + c * kStateColumns + i * S::W, next);
                sums[n][i] = S::fma(next, query, sums[n][i]);
            }
        });
        for (int i = 0; i < V; i++) S::store(out + i * S::W, total(sums, i));
    }

    template <bool delta, bool per_channel>
    static void advance(const RecurrenceTask& t) {
        for (int row = 0; row < t.num_rows; row++) {
            float v[kStateColumns] = {}, out[kStateColumns];
            std::memcpy(v, t.v + row * t.v_stride, size_t(t.num_columns) * sizeof(float));
            for (int c = 0; c < t.num_columns; c += 16)
                advance16<delta, per_channel>(t, row, t.state + c, v + c, out + c);
            std::memcpy(t.out + row * t.out_stride, out, size_t(t.num_columns) * sizeof(float));
        }
    }

    static void recur(const RecurrenceTask& t) {
        if (!t.strength) return advance<false, false>(t);
        t.decay_per_channel ? advance<true, true>(t) : advance<true, false>(t);
    }
};

}  // namespace freehold
