// The vector vocabulary of the kernels on AVX-512 (F, BW, DQ, VL, VNNI): 16 lanes.
// simd_avx2.h and simd_portable.h say the same words; a kernel is a template over one of the three.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define FH_INLINE static inline __attribute__((always_inline))

namespace freehold {

struct Avx512 {
    static constexpr int W = 16;              // lanes: outputs, keys or channels side by side
    static constexpr int kMaxRows = 8;        // rows that a linear kernel holds in registers
    static constexpr int kPairRows = 4;       // rows of a tile of two panels (5 and 6 are no faster)
    static constexpr int kScoreRows = 12;     // query rows of an attention score tile
    static constexpr int kValueRows = 4;      // of its value tile when they are few
    static constexpr int kManyValueRows = 6;  // and when they are many
    static constexpr int kValueVectors = 4;
    static constexpr int kDotRows = 4;            // queries and keys of a tile of dot products
    static constexpr bool kWideIsSigned = false;  // dot<wide> takes codes with their offset of 128
    using F = __m512;
    using I = __m512i;
    using C = __m512i;  // 4 codes for each lane
    using P = __m512i;  // 2 codes of 16 bits for each lane

    FH_INLINE F zero() { return _mm512_setzero_ps(); }
    FH_INLINE F set1(float x) { return _mm512_set1_ps(x); }
    FH_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
    FH_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    FH_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
    FH_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    FH_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    FH_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
    FH_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    // Both give `b` where one is not a number.
    FH_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
    FH_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
    FH_INLINE F abs(F a) { return _mm512_abs_ps(a); }
    FH_INLINE F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    FH_INLINE F zero_if_below(F value, F x, F limit) {  // x < limit ? 0 : value
        return _mm512_mask_mov_ps(value, _mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), _mm512_setzero_ps());
    }
    FH_INLINE F scale_by_power(F a, F n) {  // a 2^n for integral n in the exponent's range
        return _mm512_mul_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(
                                    _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23)));
    }

    FH_INLINE float sum16(const F (&v)[1]) {  // the tree (i, i+8), (i, i+4), (i, i+2), (i, i+1)
        const __m256 by8 = _mm256_add_ps(_mm512_castps512_ps256(v[0]), _mm512_extractf32x8_ps(v[0], 1));
        const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
        const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
        return _mm_cvtss_f32(_mm_add_ss(by2, _mm_shuffle_ps(by2, by2, 1)));
    }

    // sum16 of each of kDotRows, in the same order: four trees side by side.
    FH_INLINE void sums16(const F (&v)[4][1], float* out) {
        __m256 by8[4];
        for (int i = 0; i < 4; i++)
            by8[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i][0]), _mm512_extractf32x8_ps(v[i][0], 1));
        const __m256 first =
            _mm256_add_ps(_mm256_permute2f128_ps(by8[0], by8[1], 0x20), _mm256_permute2f128_ps(by8[0], by8[1], 0x31));
        const __m256 second =
            _mm256_add_ps(_mm256_permute2f128_ps(by8[2], by8[3], 0x20), _mm256_permute2f128_ps(by8[2], by8[3], 0x31));
        const __m256 by2 =
            _mm256_add_ps(_mm256_shuffle_ps(first, second, 0x44), _mm256_shuffle_ps(first, second, 0xee));
        const __m256 by1 = _mm256_add_ps(by2, _mm256_movehdup_ps(by2));  // 0, -, 2, -, 1, -, 3, -
        _mm_storeu_ps(out,
                      _mm256_castps256_ps128(_mm256_permutevar8x32_ps(by1, _mm256_setr_epi32(0, 4, 2, 6, 0, 4, 2, 6))));
    }

    FH_INLINE float max16(const F (&v)[1]) { return _mm512_reduce_max_ps(v[0]); }

    FH_INLINE F load_half(const uint16_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    FH_INLINE F load_bf16(const uint16_t* p) {
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
    }
    // The value over 256 (see kFp8Factor) of E4M3: its exponent and mantissa stand in a binary16 as they are.
    FH_INLINE F load_e4m3(const uint8_t* p) {
        const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x80)), 8);
        const __m256i rest = _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x7f)), 7);
        return _mm512_cvtph_ps(_mm256_or_si256(sign, rest));
    }
    FH_INLINE __m128i bytes(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
    FH_INLINE F load_u8(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(p))); }
    FH_INLINE F load_s8(const int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes(p))); }
    FH_INLINE F load_exponent(const uint8_t* p) {  // 2^(e - 128)
        return _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes(p)), 23)),
                             _mm512_set1_ps(0.5f));
    }
    FH_INLINE void store_s8(int8_t* p, F x) {  // x is integral and within [-127, 127]
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
    }

    // The larger magnitude of two that are not negative; a NaN is larger than all, since its bits are.
    FH_INLINE F max_magnitude(F a, F b) {
        return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    }
    FH_INLINE float reduce_magnitude(F a) {
        const int bits = _mm512_reduce_max_epi32(_mm512_castps_si512(a));
        return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
    }
    // 32 codes, rounded to the nearest and within [-127, 127], and the sums of their halves.
    FH_INLINE void store_block(int8_t* p, const F (&x)[2], int (&sums)[2]) {
        const __m128i first = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x[0]));
        const __m256i codes =
            _mm256_inserti128_si256(_mm256_castsi128_si256(first), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x[1])), 1);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), codes);
        __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), codes);
        fours = _mm256_hadd_epi32(fours, fours);
        fours = _mm256_hadd_epi32(fours, fours);
        sums[0] = _mm256_extract_epi32(fours, 0);
        sums[1] = _mm256_extract_epi32(fours, 4);
    }

    // Pairs of 16-bit codes: a lane multiplies two with two, as two columns or as two keys side by side.
    FH_INLINE P load_pairs(const int16_t* p) { return _mm512_loadu_si512(p); }
    FH_INLINE P load_pairs(const int8_t* p) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    FH_INLINE P set1_pair(const int16_t* p) {
        int32_t pair;
        __builtin_memcpy(&pair, p, 4);
        return _mm512_set1_epi32(pair);
    }
    // The intrinsic makes gcc 12 copy every sum before and after, and read what is in registers from memory again.
    FH_INLINE I dot_pairs(I sum, P a, P b) {
        asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
    // Two rows' 2 W columns as pairs (a[c], b[c]), in an order that untangle() undoes in what lanes have summed up.
    FH_INLINE void interleave(P a, P b, P& low, P& high) {
        low = _mm512_unpacklo_epi16(a, b);
        high = _mm512_unpackhi_epi16(a, b);
    }
    FH_INLINE void untangle(F low, F high, F& first, F& second) {
        const __m512i begin = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        first = _mm512_permutex2var_ps(low, begin, high);
        second = _mm512_permutex2var_ps(low, _mm512_add_epi32(begin, _mm512_set1_epi32(8)), high);
    }
    FH_INLINE void store_s16(int16_t* p, F x) {  // rounds to the nearest
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
    }

    FH_INLINE I zero_int() { return _mm512_setzero_si512(); }
    FH_INLINE F to_float(I x) { return _mm512_cvtepi32_ps(x); }
    template <int n>
    FH_INLINE I set1_shifted(int32_t x) {
        return _mm512_slli_epi32(_mm512_set1_epi32(x), n);
    }

    FH_INLINE C load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
    FH_INLINE void store_codes(uint8_t* p, C x) { _mm512_storeu_si512(p, x); }
    template <int n>  // n > 0: left; bits that cross into the next byte are masked away by the caller
    FH_INLINE C shift_and(C x, uint8_t mask) {
        if constexpr (n > 0) x = _mm512_slli_epi16(x, n);
        if constexpr (n < 0) x = _mm512_srli_epi16(x, -n);
        return _mm512_and_si512(x, _mm512_set1_epi8(char(mask)));
    }
    FH_INLINE C merge(C a, C b) { return _mm512_or_si512(a, b); }
    FH_INLINE C lookup(C index, const uint8_t* table16) {
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes(table16)), index);
    }
    // sum + codes (unsigned) . x (4 signed bytes, the same for all lanes)
    template <bool wide>
    FH_INLINE I dot(I sum, C codes, const int8_t* x) {
        int32_t quad;
        __builtin_memcpy(&quad, x, 4);
        return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(quad));
    }
};

}  // namespace freehold
