// Functions over the vector vocabulary that several kernels share.
#pragma once

#include <cstdint>

namespace freehold {

// 16 lanes as 16 / W vectors: sums over columns use 16 lanes on every machine, so that they agree on the order.
template <class S>
inline constexpr int kVectors16 = 16 / S::W;

// e^x for x <= 0 (0 below -87), within 2 units in the last place: 2^n e^r, |r| <= ln2 / 2, a Taylor polynomial for e^r.
template <class S>
static inline typename S::F exp_nonpositive(typename S::F x) {
    using F = typename S::F;
    const F n = S::round(S::mul(x, S::set1(1.44269504f)));
    const F r = S::fma(n, S::set1(-1.42860677e-6f), S::fma(n, S::set1(-0.693145752f), x));
    F p = S::set1(1.0f / 720);
    p = S::fma(p, r, S::set1(1.0f / 120));
    p = S::fma(p, r, S::set1(1.0f / 24));
    p = S::fma(p, r, S::set1(1.0f / 6));
    p = S::fma(p, r, S::set1(0.5f));
    p = S::fma(p, r, S::set1(1.0f));
    p = S::fma(p, r, S::set1(1.0f));
    return S::zero_if_below(S::scale_by_power(p, n), x, S::set1(-87.0f));
}

// 1 / (1 + e^-x).
template <class S>
static inline typename S::F sigmoid(typename S::F x) {
    using F = typename S::F;
    const F e = exp_nonpositive<S>(S::sub(S::zero(), S::abs(x)));
    const F one = S::set1(1.0f), positive = S::zero_if_below(one, x, S::zero());
    return S::div(S::fma(S::sub(one, positive), e, positive), S::add(one, e));  // (x < 0 ? e : 1) / (1 + e)
}

template <class S>
static inline float exp_nonpositive1(float x) {
    float lanes[S::W];
    S::store(lanes, exp_nonpositive<S>(S::set1(x)));
    return lanes[0];
}

static inline float larger(float a, float b) { return a > b ? a : b; }

}  // namespace freehold
