// Matrix products of bfloat16 by the processor's tile unit (Intel's AMX), where it has one and the system lends it.
//
// Weights are read as the fp32 that training keeps, and their gradients are written as such, so that no copy in the other type is made
// of either. Sums are taken in float, in an order that neither the number of rows nor that of threads changes.

#include "tiles.h"

#ifdef TILES

#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int64_t DEEPEST = 1024;  // numbers of a row that are multiplied before sums go to memory
constexpr int64_t SHARED = 1 << 22;  // numbers of the right matrix that lie ready for all threads
constexpr int64_t HIGHEST = 256;  // rows of the left one that a thread keeps in its own cache
constexpr int64_t NEAR = 8;  // panels of the right one that it goes through for each few rows

// The size of equal parts of `count`, each a multiple of `unit` and at most `most`; their number a multiple of `times`.
int64_t part(int64_t count, int64_t most, int64_t unit, int64_t times = 1) {
    int64_t parts = over(over(count, most), times) * times;
    return over(over(count, parts), unit) * unit;
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
    Room<half> shared(widest * deepest);
    std::vector<float> partial(whole || exact ? 0 : rows * widest);
#pragma omp parallel
    {
        Unit unit;
        Room<half> own(highest * deepest);
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
