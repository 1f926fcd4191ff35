// Softmax span by span: each span of keys has its own maximum and sum, and is combined into a query's state after
// those before it.
#pragma once

#include <cstring>

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace freehold {

template <class S>
struct SpanSoftmax {
    using F = typename S::F;

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

    static void clear(float* state, int dim) {
        state[0] = -__builtin_inff();
        state[1] = 0;
        std::memset(state + kStateValues, 0, size_t(dim) * sizeof(float));
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
};

}  // namespace freehold
