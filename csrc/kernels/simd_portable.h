// The vector vocabulary of the kernels in plain C++, 16 lanes, for any machine; the compiler vectorises the loops.
// See simd_avx512.h for the words. Also the first version of every kernel: the others are checked against it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "formats/half.h"

#ifndef FH_INLINE
#define FH_INLINE static inline __attribute__((always_inline))
#endif

namespace freehold {

struct Portable {
    static constexpr int W = 16;
    static constexpr int kMaxRows = 2;
    static constexpr int kPairRows = 0;  // no tiles of two panels: too few registers
    static constexpr int kScoreRows = 1;
    static constexpr int kValueRows = 1;
    static constexpr int kManyValueRows = 1;
    static constexpr int kValueVectors = 1;
    static constexpr int kDotRows = 1;
    static constexpr bool kWideIsSigned = false;  // dot<wide> takes codes with their offset of 128
    struct F {
        float v[16];
    };
    struct I {
        int32_t v[16];
    };
    struct C {
        uint8_t v[64];
    };
    struct P {
        int16_t v[32];
    };

    template <class Out, class Function>
    FH_INLINE Out lanes(Function f) {
        Out out;
        for (int i = 0; i < int(sizeof(out.v) / sizeof(out.v[0])); i++) out.v[i] = f(i);
        return out;
    }

    FH_INLINE F zero() { return F{}; }
    FH_INLINE F set1(float x) {
        return lanes<F>([&](int) { return x; });
    }
    FH_INLINE F load(const float* p) {
        return lanes<F>([&](int i) { return p[i]; });
    }
    FH_INLINE void store(float* p, F x) { std::memcpy(p, x.v, sizeof x.v); }
    FH_INLINE F add(F a, F b) {
        return lanes<F>([&](int i) { return a.v[i] + b.v[i]; });
    }
    FH_INLINE F sub(F a, F b) {
        return lanes<F>([&](int i) { return a.v[i] - b.v[i]; });
    }
    FH_INLINE F mul(F a, F b) {
        return lanes<F>([&](int i) { return a.v[i] * b.v[i]; });
    }
    FH_INLINE F div(F a, F b) {
        return lanes<F>([&](int i) { return a.v[i] / b.v[i]; });
    }
    // Without a fused multiply-add in hardware the product is rounded: a call of fmaf would cost a hundredfold.
    FH_INLINE float fma1(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
        return __builtin_fmaf(a, b, c);
#else
        return a * b + c;
#endif
    }
    FH_INLINE F fma(F a, F b, F c) {
        return lanes<F>([&](int i) { return fma1(a.v[i], b.v[i], c.v[i]); });
    }
    FH_INLINE F max(F a, F b) {
        return lanes<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
    }
    FH_INLINE F min(F a, F b) {
        return lanes<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
    }
    FH_INLINE F abs(F a) {
        return lanes<F>([&](int i) { return std::fabs(a.v[i]); });
    }
    FH_INLINE F round(F a) {
        return lanes<F>([&](int i) { return std::nearbyint(a.v[i]); });
    }
    FH_INLINE F zero_if_below(F value, F x, F limit) {
        return lanes<F>([&](int i) { return x.v[i] < limit.v[i] ? 0.0f : value.v[i]; });
    }
    FH_INLINE float power(int n) {
        const uint32_t bits = uint32_t(n + 127) << 23;
        float out;
        std::memcpy(&out, &bits, 4);
        return out;
    }
    // A NaN has no integer: it is kept by the product.
    FH_INLINE F scale_by_power(F a, F n) {
        return lanes<F>([&](int i) { return a.v[i] * power(n.v[i] == n.v[i] ? int(n.v[i]) : 0); });
    }

    FH_INLINE float sum16(const F (&v)[1]) {
        F x = v[0];
        for (int half = 8; half; half /= 2)
            for (int i = 0; i < half; i++) x.v[i] += x.v[i + half];
        return x.v[0];
    }

    FH_INLINE void sums16(const F (&v)[1][1], float* out) { out[0] = sum16(v[0]); }

    FH_INLINE float max16(const F (&v)[1]) {
        float largest = v[0].v[0];
        for (float x : v[0].v) largest = x > largest ? x : largest;
        return largest;
    }

    FH_INLINE F load_half(const uint16_t* p) {
        return lanes<F>([&](int i) { return half_to_float(p[i]); });
    }
    FH_INLINE F load_bf16(const uint16_t* p) {
        return lanes<F>([&](int i) { return bf16_to_float(p[i]); });
    }
    FH_INLINE F load_e4m3(const uint8_t* p) {
        return lanes<F>([&](int i) { return half_to_float(uint16_t((p[i] & 0x80) << 8 | (p[i] & 0x7f) << 7)); });
    }
    FH_INLINE F load_u8(const uint8_t* p) {
        return lanes<F>([&](int i) { return float(p[i]); });
    }
    FH_INLINE F load_s8(const int8_t* p) {
        return lanes<F>([&](int i) { return float(p[i]); });
    }
    FH_INLINE F load_exponent(const uint8_t* p) {
        return lanes<F>([&](int i) { return p[i] ? 0.5f * power(int(p[i]) - 127) : 0.0f; });
    }
    FH_INLINE void store_s8(int8_t* p, F x) {
        for (int i = 0; i < W; i++) p[i] = int8_t(x.v[i]);
    }

    FH_INLINE F max_magnitude(F a, F b) {
        return lanes<F>([&](int i) { return a.v[i] > b.v[i] || a.v[i] != a.v[i] ? a.v[i] : b.v[i]; });
    }
    FH_INLINE float reduce_magnitude(F a) {
        float max = 0;
        for (float x : a.v) max = x > max || x != x ? x : max;
        return max;
    }
    FH_INLINE void store_block(int8_t* p, const F (&x)[2], int (&sums)[2]) {
        for (int half = 0; half < 2; half++) {
            sums[half] = 0;
            for (int i = 0; i < W; i++) sums[half] += p[half * W + i] = int8_t(std::nearbyint(x[half].v[i]));
        }
    }

    template <class Code>
    FH_INLINE P load_pairs(const Code* p) {
        return lanes<P>([&](int i) { return p[i]; });
    }
    FH_INLINE P set1_pair(const int16_t* p) {
        return lanes<P>([&](int i) { return p[i % 2]; });
    }
    FH_INLINE I dot_pairs(I sum, P a, P b) {
        return lanes<I>([&](int i) { return sum.v[i] + a.v[2 * i] * b.v[2 * i] + a.v[2 * i + 1] * b.v[2 * i + 1]; });
    }
    FH_INLINE void interleave(P a, P b, P& low, P& high) {
        low = lanes<P>([&](int i) { return (i % 2 ? b : a).v[i / 2]; });
        high = lanes<P>([&](int i) { return (i % 2 ? b : a).v[W + i / 2]; });
    }
    FH_INLINE void untangle(F low, F high, F& first, F& second) {
        first = low;
        second = high;
    }
    FH_INLINE void store_s16(int16_t* p, F x) {
        for (int i = 0; i < W; i++) p[i] = int16_t(std::nearbyint(x.v[i]));
    }

    FH_INLINE I zero_int() { return I{}; }
    FH_INLINE F to_float(I x) {
        return lanes<F>([&](int i) { return float(x.v[i]); });
    }
    template <int n>
    FH_INLINE I set1_shifted(int32_t x) {
        return lanes<I>([&](int) { return x * (1 << n); });
    }

    FH_INLINE C load_codes(const uint8_t* p) {
        return lanes<C>([&](int i) { return p[i]; });
    }
    FH_INLINE void store_codes(uint8_t* p, C x) { std::memcpy(p, x.v, sizeof x.v); }
    template <int n>
    FH_INLINE C shift_and(C x, uint8_t mask) {
        return lanes<C>(
            [&](int i) { return uint8_t((n > 0 ? x.v[i] << (n > 0 ? n : 0) : x.v[i] >> (n < 0 ? -n : 0)) & mask); });
    }
    FH_INLINE C merge(C a, C b) {
        return lanes<C>([&](int i) { return uint8_t(a.v[i] | b.v[i]); });
    }
    FH_INLINE C lookup(C index, const uint8_t* table16) {
        return lanes<C>([&](int i) { return table16[index.v[i]]; });
    }
    template <bool wide>
    FH_INLINE I dot(I sum, C codes, const int8_t* x) {
        return lanes<I>([&](int i) {
            const uint8_t* w = codes.v + 4 * i;
            return sum.v[i] + int(w[0]) * x[0] + int(w[1]) * x[1] + int(w[2]) * x[2] + int(w[3]) * x[3];
        });
    }
};

}  // namespace freehold
