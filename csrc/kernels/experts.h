// What routed experts need beside the linear kernels: a router's scores, and the weighted sum of the experts' outputs.
//
// Layout: plain rows of float32. Accumulation in float32: the softmax's sum over 16 lanes, then a fixed tree; the sum
// of experts column by column, one fused multiply-add for each expert, in the order in which the caller goes through
// them. Threading: the program gives rows, or columns, to threads.
#pragma once

#include "kernels/kernels.h"
#include "kernels/rows.h"
#include "kernels/vector_math.h"

namespace freehold {

template <class S>
struct ExpertKernels {
    using F = typename S::F;
    static constexpr int V = kVectors16<S>;

    static void softmax(const float* x, float* out, int count) {
        float max = x[0];
        for (int i = 1; i < count; i++) max = larger(max, x[i]);
        F sums[V];
        for (int i = 0; i < V; i++) sums[i] = S::zero();
        RowKernels<S>::for_columns(x, count, [&](const F(&v)[V], int c) {
            float exponentials[16] = {};
            for (int i = 0; i < V; i++)
                S::store(exponentials + i * S::W, exp_nonpositive<S>(S::sub(v[i], S::set1(max))));
            const int some = count - c < 16 ? count - c : 16;
            for (int i = some; i < 16; i++) exponentials[i] = 0;
            for (int i = 0; i < V; i++) sums[i] = S::add(sums[i], S::load(exponentials + i * S::W));
            std::memcpy(out + c, exponentials, size_t(some) * sizeof(float));
        });
        const float sum = S::sum16(sums);
        for (int i = 0; i < count; i++) out[i] /= sum;
    }

    static void sigmoids(const float* x, float* out, int count) {
        RowKernels<S>::for_columns(x, count, [&](const F(&v)[V], int c) {
            float scores[16];
            for (int i = 0; i < V; i++) S::store(scores + i * S::W, sigmoid<S>(v[i]));
            std::memcpy(out + c, scores, size_t(count - c < 16 ? count - c : 16) * sizeof(float));
        });
    }

    static void accumulate(float weight, const float* x, float* sums, int count) {  // count: a multiple of 16
        for (int c = 0; c < count; c += S::W)
            S::store(sums + c, S::fma(S::set1(weight), S::load(x + c), S::load(sums + c)));
    }
};

}  // namespace freehold
