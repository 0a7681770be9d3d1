// Numbers of both types and the functions of one number that all kernels share. `half` is bfloat16, kept as its bits.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct half {
    uint16_t bits;
};

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float get(float x) { return x; }
inline float get(half x) { return bits_to_float(uint32_t(x.bits) << 16); }

inline void put(float &to, float x) { to = x; }
inline void put(half &to, float x) {  // to the nearest, ties to even
    uint32_t bits = float_to_bits(x);
    to.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x for x <= 0 to 2e-7 of the value: 2^n times a polynomial in the rest (Cephes, expf.c); without branches, so that it vectorises.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = std::nearbyint(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * bits_to_float(uint32_t(int32_t(n) + 127) << 23);
}

inline float sigmoid(float x) {
    float e = exponential(x < 0 ? x : -x);
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

// The share of a normal distribution below x, its density in `density` (Abramowitz and Stegun, 1964, 7.1.26; to 1e-7).
inline float normal_share(float x, float &density) {
    float size = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * size), e = exponential(-0.5f * x * x);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float above = 0.5f * p * t * e;
    density = 0.39894228f * e;
    return x < 0 ? above : 1.0f - above;
}

}  // namespace
