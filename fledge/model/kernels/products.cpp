// Matrix products of bfloat16 by the processor's tile unit (Intel's AMX), where it has one and the system lends it.
//
// Weights are read as the fp32 that training keeps, and their gradients are written as such, so that no copy in the other type is made
// of either. Sums are taken in float, in an order that neither the number of rows nor that of threads changes.

#include "numbers.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__linux__)

#include <algorithm>
#include <cstdlib>
#include <vector>

#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int64_t SIDE = 16, DEPTH = 32, TILE = SIDE * DEPTH;  // a tile is 16 rows of 32 halves, 64 bytes each
constexpr int64_t PANEL = 2 * SIDE;                            // what two tiles beside each other reach across
constexpr int64_t DEEPEST = 1024;                              // numbers of a row that are multiplied before sums go to memory
constexpr int64_t SHARED = 1 << 22;                            // numbers of the right matrix that lie ready for all threads
constexpr int64_t HIGHEST = 256;                               // rows of the left one that a thread keeps in its own cache
constexpr int64_t NEAR = 8;                                    // panels of the right one that it goes through for each few rows

int64_t over(int64_t count, int64_t size) { return (count + size - 1) / size; }

// The size of equal parts of `count`, each a multiple of `unit` and at most `most`; their number a multiple of `times`.
int64_t part(int64_t count, int64_t most, int64_t unit, int64_t times = 1) {
    int64_t parts = over(over(count, most), times) * times;
    return over(over(count, parts), unit) * unit;
}

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

// Memory for tiles.
struct Room {
    half *data;
    explicit Room(int64_t numbers) : data(static_cast<half *>(std::aligned_alloc(64, over(2 * numbers, 64) * 64))) {}
    ~Room() { std::free(data); }
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

// A square of sums on its way to `out`: with a bias added to it and, where there are `sums`, what they are; `partial` ones become those.
template <class T>
struct Leaving {
    const float *square = nullptr, *bias = nullptr, *sums = nullptr;
    float *partial = nullptr;
    T *out = nullptr;
    int64_t rows = 0, columns = 0, stride = 0, sums_stride = 0;

    void leave(int64_t from, int64_t to) const {
        __mmask16 masks[2] = {mask(columns), mask(columns - SIDE)};
        for (int64_t i = from; i < std::min({to, rows, PANEL}); i++) {
            __m512 x[2];
            for (int64_t t = 0; t < 2; t++) {
                x[t] = _mm512_load_ps(square + i * PANEL + t * SIDE);
                if (bias) x[t] = _mm512_add_ps(x[t], _mm512_maskz_loadu_ps(masks[t], bias + t * SIDE));
                if (sums) x[t] = _mm512_add_ps(x[t], _mm512_maskz_loadu_ps(masks[t], sums + i * sums_stride + t * SIDE));
            }
            if (partial) {
                put(partial + i * sums_stride, x[0], x[1], columns);
            } else {
                put(out + i * stride, x[0], x[1], columns);
            }
        }
    }
};

// The product of a left and a right panel, (32, 32), while another leaves.
template <class T>
inline void multiply(const half *left, const half *right, int64_t tiles, float *out, const Leaving<T> &other) {
    const half *left_below = left + tiles * TILE, *right_beside = right + tiles * TILE;
    int64_t share = over(PANEL, tiles), row = 0;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < tiles * TILE; k += TILE, row += share) {
        _tile_loadd(4, left + k, 2 * DEPTH);
        _tile_loadd(6, right + k, 2 * DEPTH);
        _tile_loadd(5, left_below + k, 2 * DEPTH);
        _tile_loadd(7, right_beside + k, 2 * DEPTH);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        other.leave(row, row + share);
    }
    _tile_stored(0, out, 4 * PANEL);
    _tile_stored(2, out + SIDE, 4 * PANEL);
    _tile_stored(1, out + SIDE * PANEL, 4 * PANEL);
    _tile_stored(3, out + SIDE * PANEL + SIDE, 4 * PANEL);
}

// out (rows, columns) = left right + bias, where there is one; fp32 may be added to what is there.
template <class L, class R, class T>
void product(Side<L> left, Side<R> right, const float *bias, T *out, bool add = false) {
    constexpr bool exact = sizeof(T) == sizeof(float);
    int64_t rows = left.outer, columns = right.outer, inner = left.inner, threads = omp_get_max_threads();
    if (!inner && !add) std::memset(out, 0, rows * columns * sizeof(T));
    if (!rows || !columns || !inner) return;
    int64_t deepest = part(inner, DEEPEST, DEPTH), highest = part(rows, HIGHEST, PANEL, threads);
    bool whole = deepest >= inner;
    int64_t most = whole || exact ? SHARED / deepest : std::min(SHARED / deepest, std::max(HIGHEST, SHARED / rows));
    int64_t widest = part(columns, most, PANEL);
    Room shared(widest * deepest);
    std::vector<float> partial(whole || exact ? 0 : rows * widest);
#pragma omp parallel
    {
        Unit unit;
        Room own(highest * deepest);
        alignas(64) float squares[2][PANEL * PANEL];  // one is filled while the other leaves
        int turn = 0;
        Leaving<T> leaving;
        leaving.stride = columns;
        for (int64_t column = 0; column < columns; column += widest) {
            int64_t width = std::min(widest, columns - column), panels = over(width, PANEL), each = right.along ? 1 : over(panels, threads);
            float *sums = exact ? reinterpret_cast<float *>(out) + column : partial.data();
            int64_t stride = exact ? columns : widest;
            for (int64_t from = 0; from < inner; from += deepest) {
                leaving.sums_stride = stride;
                int64_t tiles = over(std::min(deepest, inner - from), DEPTH), size = 2 * tiles * TILE;
                bool more = add || from, last = from + deepest >= inner;
#pragma omp for schedule(static)
                for (int64_t p = 0; p < panels; p += each) {
                    right.lay(column + p * PANEL, std::min(each, panels - p), from, tiles, true, shared.data + p * size);
                }
#pragma omp for schedule(dynamic)
                for (int64_t row = 0; row < rows; row += highest) {
                    int64_t lines = over(std::min(highest, rows - row), PANEL);
                    left.lay(row, lines, from, tiles, false, own.data);
                    for (int64_t step = 0; step < over(panels, NEAR) * lines * NEAR; step++) {
                        int64_t p = step / (NEAR * lines) * NEAR + step % NEAR, l = step / NEAR % lines;
                        if (p >= panels) continue;
                        float *square = squares[turn];
                        multiply(own.data + l * size, shared.data + p * size, tiles, square, leaving);
                        int64_t top = row + l * PANEL, place = p * PANEL;
                        leaving.square = square;
                        leaving.rows = rows - top;
                        leaving.columns = width - place;
                        leaving.bias = bias && last ? bias + column + place : nullptr;
                        leaving.sums = more ? sums + top * stride + place : nullptr;
                        leaving.partial = last ? nullptr : sums + top * stride + place;
                        leaving.out = out + top * columns + column + place;
                        turn ^= 1;
                    }
                    leaving.leave(0, PANEL);
                    leaving.rows = 0;
                }
            }
        }
    }
}

}  // namespace

// Linux lends the unit to a process that asks (Documentation/arch/x86/xstate.rst).
extern "C" int64_t tiles_lent() {
    const int ask = 0x1023, data = 18;
    return syscall(SYS_arch_prctl, ask, data) == 0;
}

// x (rows, inputs) times the transpose of w (outputs, inputs), and a bias, where there is one.
extern "C" void map_half(const half *x, const float *w, const float *bias, half *out, int64_t rows, int64_t inputs, int64_t outputs) {
    product<half, float, half>({x, rows, inputs, inputs, true}, {w, outputs, inputs, inputs, true}, bias, out);
}

// Its gradient by x, of the gradient g (rows, outputs).
extern "C" void map_by_inputs_half(const half *g, const float *w, half *out, int64_t rows, int64_t inputs, int64_t outputs) {
    product<half, float, half>({g, rows, outputs, outputs, true}, {w, inputs, outputs, inputs, false}, nullptr, out);
}

// Its gradient by w, put into `out` (outputs, inputs) or added to it.
extern "C" void map_by_weight_half(const half *g, const half *x, float *out, int64_t rows, int64_t inputs, int64_t outputs, int64_t add) {
    product<half, half, float>({g, outputs, rows, outputs, false}, {x, inputs, rows, inputs, false}, nullptr, out, add != 0);
}

#else

extern "C" int64_t tiles_lent() { return 0; }

#endif
