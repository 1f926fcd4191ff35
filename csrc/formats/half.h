#pragma once
#include <cstdint>
#include <cstring>
namespace freehold {
inline float bits_to_float(uint32_t b) {
    float f;
    std::memcpy(&f, &b, 4);
    return f;
}
inline uint32_t float_to_bits(float f) {
    uint32_t b;
    std::memcpy(&b, &f, 4);
    return b;
}
inline float bf16_to_float(uint16_t h) { return bits_to_float(uint32_t(h) << 16); }
inline float half_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
    if (exponent == 31) return bits_to_float(sign | 0x7f800000 | mantissa << 13);
    if (exponent) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
    const float f = float(mantissa) * 5.9604645e-8f;
    return sign ? -f : f;
}
// OCP FP8 E4M3: no infinities; all ones is a NaN.
inline float e4m3_to_float(uint8_t b) {
    if ((b & 0x7f) == 0x7f) return bits_to_float(uint32_t(b & 0x80) << 24 | 0x7fc00000);
    return half_to_float(uint16_t((b & 0x80) << 8 | (b & 0x7f) << 7)) * 256.0f;
}
inline uint16_t float_to_half(float f) {
    const uint32_t bits = float_to_bits(f), sign = bits >> 16 & 0x8000, a = bits & 0x7fffffff;
    if (a > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (a >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (a < 0x38800000) return uint16_t(sign | (float_to_bits(bits_to_float(a) + 0.5f) & 0xffff));
    return uint16_t(sign | ((a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13));
}
}  // namespace freehold
