// Numbers of both types and the functions of one number that all kernels share. `half` is bfloat16, kept as its bits.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

struct half {
    uint16_t bits;
};

// How many parts of a size hold so much.
inline int64_t over(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Memory that begins with a line of the cache.
template <class T>
struct Room {
    T *data;
    explicit Room(int64_t numbers) : data(static_cast<T *>(std::aligned_alloc(64, over(sizeof(T) * numbers, 64) * 64))) {}
    Room(const Room &) = delete;
    ~Room() { std::free(data); }
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

// The largest of some numbers, leaving out what is none; 16 in turns, which a compiler may not do by itself.
inline float largest(const float *x, int64_t count) {
    constexpr int64_t turns = 16;
    float found[turns], most = -INFINITY;
    for (int64_t t = 0; t < turns; t++) found[t] = -INFINITY;
    int64_t i = 0;
    for (; i + turns <= count; i += turns) {
        for (int64_t t = 0; t < turns; t++) found[t] = x[i + t] > found[t] ? x[i + t] : found[t];
    }
    for (; i < count; i++) most = x[i] > most ? x[i] : most;
    for (int64_t t = 0; t < turns; t++) most = found[t] > most ? found[t] : most;
    return most;
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

// A bijection of 32 bits that leaves no trace of their order (Wellons, 2018, lowbias32).
inline uint32_t mixed(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// Which numbers become zero, a share of all: that follows from the seed and a number's place alone. The others grow by `scale`.
struct Drop {
    uint32_t first, second, least;
    float scale;

    Drop(int64_t seed, float share) : least(uint32_t(double(share) * 4294967296.0)), scale(1.0f / (1.0f - share)) {
        uint64_t z = uint64_t(seed) + 0x9e3779b97f4a7c15u;  // splitmix64 (Steele et al., 2014), so that seeds in a row have nothing in common
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        first = uint32_t(z);
        second = uint32_t(z >> 32);
    }
    bool any() const { return least > 0; }
    bool takes(uint32_t row, uint32_t place) const { return mixed(mixed(first + place) ^ (second + row)) < least; }

    // What `count` numbers of a row are multiplied by, from a place on.
    void factors(int64_t row, int64_t place, int64_t count, float *to) const {
        const Drop own = *this;  // `to` may be anywhere
        for (uint32_t i = 0; i < uint32_t(count); i++) to[i] = own.takes(uint32_t(row), uint32_t(place) + i) ? 0.0f : own.scale;
    }
};

}  // namespace
