// The vector vocabulary of the kernels on AVX2, FMA and F16C: 8 lanes. See simd_avx512.h for the words.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define FH_INLINE static inline __attribute__((always_inline))

namespace freehold {

struct Avx2 {
    static constexpr int W = 8;
    static constexpr int kMaxRows = 4;
    static constexpr int kPairRows = 0;  // no tiles of two panels: too few registers
    static constexpr int kScoreRows = 2;
    static constexpr int kValueRows = 2;
    static constexpr int kManyValueRows = 2;
    static constexpr int kValueVectors = 4;
    static constexpr int kDotRows = 2;
    static constexpr bool kWideIsSigned = true;
    using F = __m256;
    using I = __m256i;
    using C = __m256i;
    using P = __m256i;

    FH_INLINE F zero() { return _mm256_setzero_ps(); }
    FH_INLINE F set1(float x) { return _mm256_set1_ps(x); }
    FH_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
    FH_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
    FH_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
    FH_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    FH_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    FH_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
    FH_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    // Both give `b` where one is not a number.
    FH_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
    FH_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
    FH_INLINE F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
    FH_INLINE F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    FH_INLINE F zero_if_below(F value, F x, F limit) {
        return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), value);
    }
    FH_INLINE F scale_by_power(F a, F n) {
        return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(
                                    _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)));
    }

    FH_INLINE float sum16(const F (&v)[2]) {
        const __m256 by8 = _mm256_add_ps(v[0], v[1]);
        const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
        const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
        return _mm_cvtss_f32(_mm_add_ss(by2, _mm_shuffle_ps(by2, by2, 1)));
    }

    FH_INLINE void sums16(const F (&v)[2][2], float* out) {
        out[0] = sum16(v[0]);
        out[1] = sum16(v[1]);
    }

    FH_INLINE float max16(const F (&v)[2]) {
        const __m256 by8 = _mm256_max_ps(v[0], v[1]);
        const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
        const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
        return _mm_cvtss_f32(_mm_max_ss(by2, _mm_shuffle_ps(by2, by2, 1)));
    }

    FH_INLINE __m128i half_line(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
    FH_INLINE __m128i bytes(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
    FH_INLINE F load_half(const uint16_t* p) { return _mm256_cvtph_ps(half_line(p)); }
    FH_INLINE F load_bf16(const uint16_t* p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half_line(p)), 16));
    }
    FH_INLINE F load_e4m3(const uint8_t* p) {
        const __m128i b = _mm_cvtepu8_epi16(bytes(p));
        const __m128i sign = _mm_slli_epi16(_mm_and_si128(b, _mm_set1_epi16(0x80)), 8);
        const __m128i rest = _mm_slli_epi16(_mm_and_si128(b, _mm_set1_epi16(0x7f)), 7);
        return _mm256_cvtph_ps(_mm_or_si128(sign, rest));
    }
    FH_INLINE F load_u8(const uint8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes(p))); }
    FH_INLINE F load_s8(const int8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes(p))); }
    FH_INLINE F load_exponent(const uint8_t* p) {
        return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes(p)), 23)),
                             _mm256_set1_ps(0.5f));
    }
    FH_INLINE void store_s8(int8_t* p, F x) {
        const __m256i n = _mm256_cvtps_epi32(x);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
    }

    FH_INLINE F max_magnitude(F a, F b) {
        return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
    }
    FH_INLINE float reduce_magnitude(F a) {
        const __m256i v = _mm256_castps_si256(a);
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
        return _mm_cvtss_f32(_mm_castsi128_ps(m));
    }
    FH_INLINE void store_block(int8_t* p, const F (&x)[4], int (&sums)[2]) {
        const __m256i first = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
        const __m256i second = _mm256_packs_epi32(_mm256_cvtps_epi32(x[2]), _mm256_cvtps_epi32(x[3]));
        const __m256i codes =
            _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), codes);
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
        __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        fours = _mm256_hadd_epi32(fours, fours);
        fours = _mm256_hadd_epi32(fours, fours);
        sums[0] = _mm256_extract_epi32(fours, 0);
        sums[1] = _mm256_extract_epi32(fours, 4);
    }

    FH_INLINE P load_pairs(const int8_t* p) { return _mm256_cvtepi8_epi16(half_line(p)); }
    FH_INLINE P load_pairs(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    FH_INLINE P set1_pair(const int16_t* p) {
        int32_t pair;
        __builtin_memcpy(&pair, p, 4);
        return _mm256_set1_epi32(pair);
    }
    FH_INLINE I dot_pairs(I sum, P a, P b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
    FH_INLINE void interleave(P a, P b, P& low, P& high) {
        low = _mm256_unpacklo_epi16(a, b);
        high = _mm256_unpackhi_epi16(a, b);
    }
    FH_INLINE void untangle(F low, F high, F& first, F& second) {
        first = _mm256_permute2f128_ps(low, high, 0x20);
        second = _mm256_permute2f128_ps(low, high, 0x31);
    }
    FH_INLINE void store_s16(int16_t* p, F x) {
        const __m256i n = _mm256_cvtps_epi32(x);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1)));
    }

    FH_INLINE I zero_int() { return _mm256_setzero_si256(); }
    FH_INLINE F to_float(I x) { return _mm256_cvtepi32_ps(x); }
    template <int n>
    FH_INLINE I set1_shifted(int32_t x) {
        return _mm256_slli_epi32(_mm256_set1_epi32(x), n);
    }

    FH_INLINE C load_codes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    FH_INLINE void store_codes(uint8_t* p, C x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
    template <int n>
    FH_INLINE C shift_and(C x, uint8_t mask) {
        if constexpr (n > 0) x = _mm256_slli_epi16(x, n);
        if constexpr (n < 0) x = _mm256_srli_epi16(x, -n);
        return _mm256_and_si256(x, _mm256_set1_epi8(char(mask)));
    }
    FH_INLINE C merge(C a, C b) { return _mm256_or_si256(a, b); }
    FH_INLINE C lookup(C index, const uint8_t* table16) {
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(half_line(table16)), index);
    }
    // maddubs saturates at 16 bits: codes up to 127 are safe as they are; wider ones (offset 128) are made
    // signed first (which is their offset taken away: kWideIsSigned) and their sign moved to x.
    template <bool wide>
    FH_INLINE I dot(I sum, C codes, const int8_t* x) {
        int32_t quad;
        __builtin_memcpy(&quad, x, 4);
        const __m256i xs = _mm256_set1_epi32(quad), ones = _mm256_set1_epi16(1);
        if constexpr (wide) {
            const __m256i w = _mm256_xor_si256(codes, _mm256_set1_epi8(char(0x80)));
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(xs, w));
            return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, xs), ones));
    }
};

}  // namespace freehold
