// The processor's tile unit (Intel's AMX): how matrices lie for it, and the lines around it that its kernels share. Where there is none,
// TILES is not defined.

#pragma once

#include "numbers.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__linux__)

#define TILES

#include <algorithm>
#include <vector>

#include <immintrin.h>
#include <omp.h>

namespace {

constexpr int64_t SIDE = 16, DEPTH = 32, TILE = SIDE * DEPTH;  // a tile is 16 rows of 32 halves, 64 bytes each
constexpr int64_t PANEL = 2 * SIDE;                            // what two tiles beside each other reach across

inline __mmask16 mask(int64_t count) { return count >= SIDE ? 0xffff : count > 0 ? (1u << count) - 1 : 0; }

// 32 numbers in a row, or as many as there are and zeros.
inline __m512i line(const float *x, int64_t count) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(mask(count - SIDE), x + SIDE), _mm512_maskz_loadu_ps(mask(count), x));
}
inline __m512i line(const half *x, int64_t count) { return _mm512_maskz_loadu_epi16(count >= DEPTH ? ~0u : (1u << count) - 1, x); }

// 16 numbers, each in the place of two.
inline __m512i wide(const float *x, __mmask16 mask) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x)));
}
inline __m512i wide(const half *x, __mmask16 mask) { return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x)); }

// 16 rows of 16 pairs become 16 columns.
inline void turn(half *tile) {
    __m512i r[SIDE], t[SIDE];
    for (int i = 0; i < SIDE; i++) r[i] = _mm512_load_si512(tile + i * DEPTH);
    for (int i = 0; i < SIDE; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4) {
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    }
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 2; j++) {
            t[8 * j + i] = _mm512_shuffle_i32x4(r[8 * j + i], r[8 * j + 4 + i], 0x88);
            t[8 * j + 4 + i] = _mm512_shuffle_i32x4(r[8 * j + i], r[8 * j + 4 + i], 0xdd);
        }
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    }
    for (int i = 0; i < SIDE; i++) _mm512_store_si512(tile + i * DEPTH, r[i]);
}

// A matrix of `outer` lines that are multiplied along their `inner` numbers, which lie side by side in memory or `stride` apart.
template <class T>
struct Side {
    const T *data;
    int64_t outer, inner, stride;
    bool along;

    // Panels of 32 lines as the unit reads them: tiles of rows of a left matrix, or of a right one's columns as pairs. Each panel has those
    // of its first 16 lines before those of the others; beyond the edges are zeros. Memory is read row by row, as it comes.
    void lay(int64_t first_line, int64_t panels, int64_t from, int64_t tiles, bool right, half *to) const {
        int64_t lines = panels * PANEL, depth = tiles * DEPTH;
        auto place = [=](int64_t line, int64_t k, int64_t row) { return to + (line / SIDE * tiles + k / DEPTH) * TILE + row * DEPTH; };
        if (along) {
            for (int64_t l = 0; l < lines; l++) {
                const T *at = data + (first_line + l) * stride + from;
                int64_t count = first_line + l < outer ? inner - from : 0;
                for (int64_t k = 0; k < depth; k += DEPTH) {
                    _mm512_store_si512(place(l, k, l % SIDE), count > k ? line(at + k, count - k) : _mm512_setzero_si512());
                }
            }
        } else {
            for (int64_t k = 0; k < depth; k += 2) {
                const T *at = data + (from + k) * stride + first_line;
                for (int64_t l = 0; l < lines; l += SIDE) {
                    __mmask16 there = mask(outer - first_line - l), first = from + k < inner ? there : 0, second = from + k + 1 < inner ? there : 0;
                    __m512i pairs = _mm512_or_si512(wide(at + l, first), _mm512_slli_epi32(wide(at + stride + l, second), 16));
                    _mm512_store_si512(place(l, k, k % DEPTH / 2), pairs);
                }
            }
        }
        if (along == right) {
            for (int64_t t = 0; t < 2 * panels * tiles; t++) turn(to + t * TILE);
        }
    }
};

// The unit set up for eight whole tiles; afterwards it is as it was, for others use it too.
struct Unit {
    struct alignas(64) Setting {
        uint8_t palette, start, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } before{};

    Unit() {
        Setting own{};
        own.palette = 1;
        for (int i = 0; i < 8; i++) own.bytes[i] = 2 * DEPTH, own.rows[i] = SIDE;
        _tile_storeconfig(&before);
        asm volatile("" : : "r"(&own), "r"(&before) : "memory");  // compilers take the settings for eight bytes
        _tile_loadconfig(&own);
    }
    ~Unit() {
        if (before.palette) {
            _tile_loadconfig(&before);
        } else {
            _tile_release();
        }
    }
};

// 32 numbers, or as many as there are, in one go where that fills a line of the cache.
inline void put(float *to, __m512 first, __m512 second, int64_t count) {
    _mm512_mask_storeu_ps(to, mask(count), first);
    _mm512_mask_storeu_ps(to + SIDE, mask(count - SIDE), second);
}
inline void put(half *to, __m512 first, __m512 second, int64_t count) {
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    if (count >= PANEL) {
        _mm512_storeu_si512(to, both);
    } else {
        _mm512_mask_storeu_epi16(to, (1u << count) - 1, both);
    }
}

}  // namespace

#endif
