// Rounding to a scale that is given, and the search for the scale.
//
// The legacy formats take the scale from the largest value, as ggml does. The others (and all of them when columns
// differ in importance) try scales around that one; for each the codes are rounded, and the scale (and minimum) that
// fit these codes best follow from weighted least squares. The best of all is kept.
#include "formats/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "formats/half.h"

namespace freehold {
namespace {

#ifdef __x86_64__  // the same operations in the same order whichever is chosen
#define FH_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FH_CLONES
#endif
#define FH_INLINE static inline __attribute__((always_inline))

constexpr int kLanes = 16;  // sums run in lanes, so that the compiler can vectorise them; groups are multiples of it

int nearest(float x) { return int(std::nearbyint(x)); }
int clamp(int x, int low, int high) { return std::min(std::max(x, low), high); }

// Rounds to even, for magnitudes below 2^22.
FH_INLINE float rounded(float x) { return (x + 12582912.0f) - 12582912.0f; }
FH_INLINE float rounded(float x, float low, float high) {
    x = x > low ? x : low;
    return rounded(x < high ? x : high);
}

// Adds f(i) for i < n, a multiple of kLanes.
template <class F>
FH_INLINE double sum(int n, F f) {
    float lanes[kLanes] = {};
    for (int i = 0; i < n; i += kLanes)
        for (int l = 0; l < kLanes; l++) lanes[l] += f(i + l);
    double total = 0;
    for (float lane : lanes) total += lane;
    return total;
}

float largest_of(const float* x, int n) {
    float largest = 0;
    for (int i = 0; i < n; i++)
        if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
    return largest;
}

constexpr int kMaxGroup = 32;

// The scale of w = scale * code that fits best when codes are round(w / scale). The scale tried first makes the largest
// value `reach`; both signs are tried, since the codes reach further on one side.
template <class Round>
FH_INLINE float search_scale(const float* x, const float* weight, int n, float reach, Round round) {
    const float largest = largest_of(x, n), apart = std::max(0.1f, reach / 80);
    float codes[kMaxGroup], best_scale = 0;
    double best_gain = 0;  // what the fit takes away from the sum of squares
    if (largest == 0) return 0;
    for (int step = -18; step <= 18; step += 2)
        for (float sign : {-1.0f, 1.0f}) {
            const float inverse = sign * (reach + apart * float(step)) / largest;
            for (int i = 0; i < n; i++) codes[i] = round(x[i] * inverse);
            const double products = sum(n, [&](int i) { return weight[i] * x[i] * codes[i]; });
            const double squares = sum(n, [&](int i) { return weight[i] * codes[i] * codes[i]; });
            if (squares > 0 && products * products > best_gain * squares)
                best_gain = products * products / squares, best_scale = float(products / squares);
        }
    return best_scale;
}

// For codes -half..half - 1.
FH_CLONES float search_codes(const float* x, const float* weight, int n, int half) {
    const float low = float(-half), high = float(half - 1);
    return search_scale(x, weight, n, float(half), [=](float v) { return rounded(v, low, high); });
}

// For IQ4's levels: 32 values.
FH_CLONES float search_levels(const float* x, const float* weight) {
    return search_scale(x, weight, 32, 120, [](float v) {
        float level = kIq4Levels[0];
        for (int i = 0; i < 15; i++)
            level += v > 0.5f * float(kIq4Levels[i] + kIq4Levels[i + 1]) ? float(kIq4Levels[i + 1] - kIq4Levels[i]) : 0;
        return level;
    });
}

// w = scale * code + minimum, minimum not above zero, codes 0..high.
struct Affine {
    float scale = 0, minimum = 0;
};

FH_CLONES Affine search_affine(const float* x, const float* weight, int n, int high) {
    const float low = std::min(0.0f, *std::min_element(x, x + n)), top = *std::max_element(x, x + n);
    if (top <= low) return {0, low};
    const double w = sum(n, [&](int i) { return weight[i]; }), wx = sum(n, [&](int i) { return weight[i] * x[i]; });
    float codes[kMaxGroup];
    Affine best{(top - low) / float(high), low};
    double best_error = __builtin_inf();  // less the sum of squares
    for (int step = -10; step <= 20; step += 2) {
        Affine tried{(top - low) / (float(high) + 0.1f * float(step)), low};
        for (int round = 0; round < 2; round++) {
            const float inverse = 1 / tried.scale;
            for (int i = 0; i < n; i++) codes[i] = rounded((x[i] - tried.minimum) * inverse, 0, float(high));
            const double wc = sum(n, [&](int i) { return weight[i] * codes[i]; });
            const double wcc = sum(n, [&](int i) { return weight[i] * codes[i] * codes[i]; });
            const double wcx = sum(n, [&](int i) { return weight[i] * codes[i] * x[i]; });
            const double determinant = w * wcc - wc * wc;
            if (determinant <= 0) break;
            double scale = (w * wcx - wc * wx) / determinant, minimum = (wcc * wx - wc * wcx) / determinant;
            if (minimum > 0) minimum = 0, scale = wcx / wcc;
            if (scale <= 0) break;
            tried = {float(scale), float(minimum)};
            const double error = scale * (scale * wcc - 2 * wcx) + minimum * (minimum * w - 2 * wx + 2 * scale * wc);
            if (error < best_error) best = tried, best_error = error;
        }
    }
    return best;
}

// What an error at each value costs: its column's importance; and that of large values more, since they are rarer.
void weights_of(const float* x, const float* importance, int n, float mean_square, float* weight) {
    for (int i = 0; i < n; i++)
        weight[i] = importance ? importance[i] * std::sqrt(mean_square + x[i] * x[i]) : mean_square + x[i] * x[i];
}

float mean_square(const float* x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += double(x[i]) * x[i];
    return float(sum / n);
}

// Codes of 32 values into the low and high halves of 16 bytes.
void put_nibbles(const int* codes, uint8_t* qs) {
    for (int i = 0; i < 16; i++) qs[i] = uint8_t((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}
void put_fifth_bits(const int* codes, uint8_t* qh) {
    for (int i = 0; i < 4; i++) qh[i] = 0;
    for (int i = 0; i < 32; i++) qh[i / 8] = uint8_t(qh[i / 8] | (codes[i] >> 4 & 1) << i % 8);
}

// Legacy formats ---------------------------------------------------------------------------------------------------

// Codes x / d + half + 0.5, rounded down, of Q4_0 (half = 8) and Q5_0 (16).
half_bits legacy_symmetric(const float* x, const float* importance, int half, int* codes) {
    float d = 0;
    if (importance) {
        float weight[32];
        weights_of(x, importance, 32, mean_square(x, 32), weight);
        d = search_codes(x, weight, 32, half);
    } else {
        d = largest_of(x, 32) / float(-half);
    }
    const float inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < 32; i++) codes[i] = clamp(int(x[i] * inverse + (float(half) + 0.5f)), 0, 2 * half - 1);
    return float_to_half(d);
}

void legacy_affine(const float* x, const float* importance, int high, int* codes, half_bits& d_bits,
                   half_bits& m_bits) {
    Affine a;
    if (importance) {
        float weight[32];
        weights_of(x, importance, 32, mean_square(x, 32), weight);
        a = search_affine(x, weight, 32, high);
    } else {
        a.minimum = *std::min_element(x, x + 32);
        a.scale = (*std::max_element(x, x + 32) - a.minimum) / float(high);
    }
    const float inverse = a.scale != 0 ? 1 / a.scale : 0;
    for (int i = 0; i < 32; i++) codes[i] = clamp(int((x[i] - a.minimum) * inverse + 0.5f), 0, high);
    d_bits = float_to_half(a.scale), m_bits = float_to_half(a.minimum);
}

void put(const float* x, const float* w, BlockQ4_0& b) {
    int codes[32];
    b.d = legacy_symmetric(x, w, 8, codes);
    put_nibbles(codes, b.qs);
}
void put(const float* x, const float* w, BlockQ5_0& b) {
    int codes[32];
    b.d = legacy_symmetric(x, w, 16, codes);
    put_nibbles(codes, b.qs);
    put_fifth_bits(codes, b.qh);
}
void put(const float* x, const float* w, BlockQ4_1& b) {
    int codes[32];
    legacy_affine(x, w, 15, codes, b.d, b.m);
    put_nibbles(codes, b.qs);
}
void put(const float* x, const float* w, BlockQ5_1& b) {
    int codes[32];
    legacy_affine(x, w, 31, codes, b.d, b.m);
    put_nibbles(codes, b.qs);
    put_fifth_bits(codes, b.qh);
}
void put(const float* x, const float*, BlockQ8_0& b) {
    float largest = 0;
    for (int i = 0; i < 32; i++) largest = std::max(largest, std::fabs(x[i]));
    const float d = largest / 127, inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < 32; i++) b.qs[i] = int8_t(std::round(x[i] * inverse));
    b.d = float_to_half(d);
}
void put(const float* x, const float*, BlockMXFP4& b) {
    float largest = 0;
    for (int i = 0; i < 32; i++) largest = std::max(largest, std::fabs(x[i]));
    b.e = largest > 0 ? uint8_t(clamp(int(std::floor(std::log2(largest))) + 125, 0, 254)) : 0;
    const float d = std::ldexp(1.0f, int(b.e) - 128);
    int codes[32];
    for (int i = 0; i < 32; i++) {
        int best = 0;
        for (int code = 1; code < 16; code++)
            if (std::fabs(d * kFp4Levels[code] - x[i]) < std::fabs(d * kFp4Levels[best] - x[i])) best = code;
        codes[i] = best;
    }
    put_nibbles(codes, b.qs);
}

// Levels of a table ------------------------------------------------------------------------------------------------

int nearest_level(float x) {
    int best = 0;
    for (int code = 1; code < 16; code++)
        if (std::fabs(float(kIq4Levels[code]) - x) < std::fabs(float(kIq4Levels[best]) - x)) best = code;
    return best;
}

void put_levels(const float* x, float scale, uint8_t* qs) {
    int codes[32];
    for (int i = 0; i < 32; i++) codes[i] = nearest_level(scale != 0 ? x[i] / scale : 0);
    put_nibbles(codes, qs);
}

void put(const float* x, const float* w, BlockIQ4_NL& b) {
    float weight[32];
    weights_of(x, w, 32, mean_square(x, 32), weight);
    b.d = float_to_half(search_levels(x, weight));
    put_levels(x, half_to_float(b.d), b.qs);
}

// Super-blocks -----------------------------------------------------------------------------------------------------

// The scale of scales of which the one of the largest magnitude becomes `reach`, and the scales' codes.
half_bits quantize_scales(const float* scales, int n, int reach, int low, int* codes) {
    const half_bits d = float_to_half(largest_of(scales, n) / float(reach));
    const float step = half_to_float(d);
    for (int i = 0; i < n; i++)
        codes[i] = step != 0 ? clamp(nearest(scales[i] / step), low, reach < 0 ? -reach - 1 : reach) : 0;
    return d;
}

// Groups of `size` values with 6-bit (or 8-bit) signed scales; codes from -half to half - 1.
struct SymmetricGroups {
    int scales[16];
    int codes[256];
    half_bits d;
};
SymmetricGroups symmetric_groups(const float* x, const float* importance, int half, int reach, int low) {
    SymmetricGroups out;
    float scales[16], weight[16];
    const float square = mean_square(x, 256);
    for (int g = 0; g < 16; g++) {
        weights_of(x + 16 * g, importance ? importance + 16 * g : nullptr, 16, square, weight);
        scales[g] = search_codes(x + 16 * g, weight, 16, half);
    }
    out.d = quantize_scales(scales, 16, reach, low, out.scales);
    for (int i = 0; i < 256; i++) {
        const float step = half_to_float(out.d) * float(out.scales[i / 16]);
        out.codes[i] = step != 0 ? clamp(nearest(x[i] / step), -half, half - 1) : 0;
    }
    return out;
}

void put(const float* x, const float* w, BlockQ6_K& b) {
    const SymmetricGroups found = symmetric_groups(x, w, 32, -128, -128);
    b.d = found.d;
    for (int g = 0; g < 16; g++) b.scales[g] = int8_t(found.scales[g]);
    std::memset(b.ql, 0, sizeof b.ql), std::memset(b.qh, 0, sizeof b.qh);
    for (int i = 0; i < 256; i++) {
        const int code = found.codes[i] + 32, j = i / 32, at = i % 32;
        uint8_t &low = b.ql[64 * (j / 4) + 32 * (j % 2) + at], &high = b.qh[32 * (j / 4) + at];
        low = uint8_t(low | (code & 15) << 4 * (j % 4 / 2));
        high = uint8_t(high | (code >> 4) << 2 * (j % 4));
    }
}

void put(const float* x, const float* w, BlockQ3_K& b) {
    const SymmetricGroups found = symmetric_groups(x, w, 4, -32, -32);
    b.d = found.d;
    std::memset(b.hmask, 0, sizeof b.hmask), std::memset(b.qs, 0, sizeof b.qs),
        std::memset(b.scales, 0, sizeof b.scales);
    for (int g = 0; g < 16; g++) {
        const int scale = found.scales[g] + 32;
        b.scales[g % 8] = uint8_t(b.scales[g % 8] | (scale & 15) << (g < 8 ? 0 : 4));
        b.scales[8 + g % 4] = uint8_t(b.scales[8 + g % 4] | (scale >> 4) << 2 * (g / 4));
    }
    for (int i = 0; i < 256; i++) {
        const int code = found.codes[i] + 4, j = i / 32, at = i % 32;
        b.qs[32 * (j / 4) + at] = uint8_t(b.qs[32 * (j / 4) + at] | (code & 3) << 2 * (j % 4));
        b.hmask[at] = uint8_t(b.hmask[at] | (code >> 2) << j);
    }
}

// Groups with an unsigned scale and a minimum each.
struct AffineGroups {
    int scales[16], minima[16];
    int codes[256];
    half_bits d, dmin;
};
AffineGroups affine_groups(const float* x, const float* importance, int size, int high, int reach) {
    AffineGroups out;
    float scales[16], minima[16], weight[32];
    const int n = 256 / size;
    const float square = mean_square(x, 256);
    for (int g = 0; g < n; g++) {
        weights_of(x + size * g, importance ? importance + size * g : nullptr, size, square, weight);
        const Affine a = search_affine(x + size * g, weight, size, high);
        scales[g] = a.scale, minima[g] = -a.minimum;
    }
    out.d = quantize_scales(scales, n, reach, 0, out.scales);
    out.dmin = quantize_scales(minima, n, reach, 0, out.minima);
    for (int i = 0; i < 256; i++) {
        const int g = i / size;
        const float step = half_to_float(out.d) * float(out.scales[g]);
        const float minimum = half_to_float(out.dmin) * float(out.minima[g]);
        out.codes[i] = step != 0 ? clamp(nearest((x[i] + minimum) / step), 0, high) : 0;
    }
    return out;
}

void put(const float* x, const float* w, BlockQ2_K& b) {
    const AffineGroups found = affine_groups(x, w, 16, 3, 15);
    b.d = found.d, b.dmin = found.dmin;
    std::memset(b.qs, 0, sizeof b.qs);
    for (int g = 0; g < 16; g++) b.scales[g] = uint8_t(found.scales[g] | found.minima[g] << 4);
    for (int i = 0; i < 256; i++) {
        uint8_t& byte = b.qs[32 * (i / 128) + i % 32];
        byte = uint8_t(byte | found.codes[i] << 2 * (i / 32 % 4));
    }
}

// Eight 6-bit scales and minima in 12 bytes, as Q4_K and Q5_K keep them.
void put_scales(const AffineGroups& found, uint8_t* packed) {
    for (int g = 0; g < 4; g++) {
        const int scale = found.scales[g + 4], minimum = found.minima[g + 4];
        packed[g] = uint8_t(found.scales[g] | (scale >> 4) << 6);
        packed[g + 4] = uint8_t(found.minima[g] | (minimum >> 4) << 6);
        packed[g + 8] = uint8_t((scale & 15) | (minimum & 15) << 4);
    }
}

void put(const float* x, const float* w, BlockQ4_K& b) {
    const AffineGroups found = affine_groups(x, w, 32, 15, 63);
    b.d = found.d, b.dmin = found.dmin;
    put_scales(found, b.scales);
    for (int i = 0; i < 128; i++) {
        const int at = 64 * (i / 32) + i % 32;
        b.qs[i] = uint8_t(found.codes[at] | found.codes[at + 32] << 4);
    }
}

void put(const float* x, const float* w, BlockQ5_K& b) {
    const AffineGroups found = affine_groups(x, w, 32, 31, 63);
    b.d = found.d, b.dmin = found.dmin;
    put_scales(found, b.scales);
    std::memset(b.qh, 0, sizeof b.qh);
    for (int i = 0; i < 128; i++) {
        const int at = 64 * (i / 32) + i % 32;
        b.qs[i] = uint8_t((found.codes[at] & 15) | (found.codes[at + 32] & 15) << 4);
    }
    for (int i = 0; i < 256; i++) b.qh[i % 32] = uint8_t(b.qh[i % 32] | (found.codes[i] >> 4) << i / 32);
}

void put(const float* x, const float* w, BlockIQ4_XS& b) {
    float scales[8], weight[32];
    int codes[8];
    const float square = mean_square(x, 256);
    for (int g = 0; g < 8; g++) {
        weights_of(x + 32 * g, w ? w + 32 * g : nullptr, 32, square, weight);
        scales[g] = search_levels(x + 32 * g, weight);
    }
    b.d = quantize_scales(scales, 8, -32, -32, codes);
    b.scales_h = 0;
    std::memset(b.scales_l, 0, sizeof b.scales_l);
    for (int g = 0; g < 8; g++) {
        const int scale = codes[g] + 32;
        b.scales_l[g / 2] = uint8_t(b.scales_l[g / 2] | (scale & 15) << 4 * (g % 2));
        b.scales_h = uint16_t(b.scales_h | (scale >> 4) << 2 * g);
        put_levels(x + 32 * g, half_to_float(b.d) * float(codes[g]), b.qs + 16 * g);
    }
}

template <class Block>
void blocks_of(const float* values, const float* importance, size_t count, int elements, void* blocks) {
    auto* out = static_cast<Block*>(blocks);
    for (size_t i = 0; i < count / size_t(elements); i++)
        put(values + i * size_t(elements), importance ? importance + i * size_t(elements) : nullptr, out[i]);
}

uint16_t to_bf16(float x) {
    const uint32_t bits = float_to_bits(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

bool can_quantize(Format format) {
    return format != Format::FP8_32 && format != Format::FP8_128 && format != Format::INT4_F16 &&
           format != Format::INT4_BF16;
}

void quantize(Format format, const float* values, const float* importance, size_t count, void* blocks) {
    const int elements = format_info(format).block_elements;
    switch (format) {
        case Format::F32:
            std::memcpy(blocks, values, 4 * count);
            return;
        case Format::F16:
            for (size_t i = 0; i < count; i++) static_cast<uint16_t*>(blocks)[i] = float_to_half(values[i]);
            return;
        case Format::BF16:
            for (size_t i = 0; i < count; i++) static_cast<uint16_t*>(blocks)[i] = to_bf16(values[i]);
            return;
        case Format::Q4_0:
            return blocks_of<BlockQ4_0>(values, importance, count, elements, blocks);
        case Format::Q4_1:
            return blocks_of<BlockQ4_1>(values, importance, count, elements, blocks);
        case Format::Q5_0:
            return blocks_of<BlockQ5_0>(values, importance, count, elements, blocks);
        case Format::Q5_1:
            return blocks_of<BlockQ5_1>(values, importance, count, elements, blocks);
        case Format::Q8_0:
            return blocks_of<BlockQ8_0>(values, importance, count, elements, blocks);
        case Format::Q2_K:
            return blocks_of<BlockQ2_K>(values, importance, count, elements, blocks);
        case Format::Q3_K:
            return blocks_of<BlockQ3_K>(values, importance, count, elements, blocks);
        case Format::Q4_K:
            return blocks_of<BlockQ4_K>(values, importance, count, elements, blocks);
        case Format::Q5_K:
            return blocks_of<BlockQ5_K>(values, importance, count, elements, blocks);
        case Format::Q6_K:
            return blocks_of<BlockQ6_K>(values, importance, count, elements, blocks);
        case Format::IQ4_NL:
            return blocks_of<BlockIQ4_NL>(values, importance, count, elements, blocks);
        case Format::IQ4_XS:
            return blocks_of<BlockIQ4_XS>(values, importance, count, elements, blocks);
        case Format::MXFP4:
            return blocks_of<BlockMXFP4>(values, importance, count, elements, blocks);
        default:
            throw std::invalid_argument(std::string("quantize: to ") + format_info(format).name);
    }
}

}  // namespace freehold
