// Attention of bfloat16 by the processor's tile unit, both ways: scores exist for 32 queries and keys at a time, and are made again for the
// gradients, from the logarithm of each query's sum (Dao, 2023, arXiv:2307.08691).
//
// One thread takes whatever shares keys, from its beginning to its end, so that nothing depends on the number of threads.

#include "tiles.h"

#ifdef TILES

namespace {

constexpr int64_t SQUARE = PANEL * PANEL;

// e^x of 16 numbers, as in numbers.h; far below 0 it is 0.
inline __m512 exponential(__m512 x) {
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x));
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f}) {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(next));
    }
    return _mm512_scalef_ps(p, n);
}

inline __m512 floats(const half *x, int64_t count) {
    return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask(count), x)), 16);
}

// The keys that each of 32 queries sees: those from its first to before its last.
struct Seen {
    alignas(64) int32_t first[PANEL] = {}, last[PANEL] = {};
    int64_t low = 0, high = 0;         // which any of them sees
    int64_t all_low = 0, all_high = 0;  // which all of them see

    Seen(const int64_t *firsts, const int64_t *lasts, int64_t queries) {
        low = all_high = INT32_MAX;
        for (int64_t i = 0; i < PANEL; i++) {
            int64_t begin = i < queries ? firsts[i] : 0, end = i < queries ? lasts[i] : 0;
            all_low = std::max(all_low, begin);
            all_high = std::min(all_high, end);
            if (begin >= end) continue;
            first[i] = int32_t(begin);
            last[i] = int32_t(end);
            low = std::min(low, begin);
            high = std::max(high, end);
        }
    }
    bool some(int64_t key) const { return low < key + PANEL && key < high; }
    bool all(int64_t key) const { return all_low <= key && key + PANEL <= all_high; }

    // Which of the 32 keys from this one on a query sees, as bits.
    uint32_t keys(int64_t query, int64_t key) const { return below(last[query] - key) & ~below(first[query] - key); }
    static uint32_t below(int64_t count) { return count >= PANEL ? ~0u : count > 0 ? (1u << count) - 1 : 0; }

    // Which of 16 queries see a key.
    __mmask16 queries(int64_t from, int64_t key) const {
        __m512i at = _mm512_set1_epi32(int32_t(key));
        return _mm512_cmple_epi32_mask(_mm512_load_si512(first + from), at) & _mm512_cmpgt_epi32_mask(_mm512_load_si512(last + from), at);
    }
};

// The product of a left and a right panel, (32, 32), added to `out` or put there; `below` and `beside` lead from the tiles of the first 16
// lines to those of the others.
inline void multiply(const half *left, int64_t below, const half *right, int64_t beside, int64_t tiles, float *out, bool add) {
    if (add) {
        _tile_loadd(0, out, 4 * PANEL);
        _tile_loadd(1, out + SIDE * PANEL, 4 * PANEL);
        _tile_loadd(2, out + SIDE, 4 * PANEL);
        _tile_loadd(3, out + SIDE * PANEL + SIDE, 4 * PANEL);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < tiles * TILE; k += TILE) {
        _tile_loadd(4, left + k, 2 * DEPTH);
        _tile_loadd(6, right + k, 2 * DEPTH);
        _tile_loadd(5, left + below + k, 2 * DEPTH);
        _tile_loadd(7, right + beside + k, 2 * DEPTH);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, 4 * PANEL);
    _tile_stored(1, out + SIDE * PANEL, 4 * PANEL);
    _tile_stored(2, out + SIDE, 4 * PANEL);
    _tile_stored(3, out + SIDE * PANEL + SIDE, 4 * PANEL);
}

// Queries (matrices, group, queries, size) that look at keys (matrices, keys, size); ranges are (matrices / share, queries).
struct Shape {
    int64_t matrices, share, group, queries, keys, size;
    float scale;
    const int64_t *first, *last;

    int64_t deep() const { return over(size, DEPTH); }
    int64_t query_panels() const { return over(queries, PANEL); }
    int64_t key_panels() const { return over(keys, PANEL); }

    Seen seen(int64_t matrix, int64_t panel) const {
        int64_t from = matrix / share * queries + panel * PANEL;
        return Seen(first + from, last + from, std::min(PANEL, queries - panel * PANEL));
    }
    // Panels of rows, and of columns, of a matrix (lines, size).
    void rows(const half *x, int64_t lines, int64_t panel, int64_t panels, bool right, half *to) const {
        Side<half>{x, lines, size, size, true}.lay(panel * PANEL, panels, 0, deep(), right, to);
    }
    void columns(const half *x, int64_t lines, bool right, half *to) const {
        Side<half>{x, size, lines, size, false}.lay(0, deep(), 0, over(lines, PANEL), right, to);
    }
};

// The weights of one query, before they are divided by their sum, for the keys of so many panels from the one at `key` on; returns the sum
// and how far the largest score was.
inline std::pair<float, float> weigh(const float *scores, const Seen &seen, int64_t query, int64_t key, int64_t panels, float scale, half *to) {
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int64_t p = 0; p < panels; p++) {
        uint32_t bits = seen.keys(query, key + p * PANEL);
        const float *s = scores + p * SQUARE + query * PANEL;
        most = _mm512_mask_max_ps(most, __mmask16(bits), most, _mm512_load_ps(s));
        most = _mm512_mask_max_ps(most, __mmask16(bits >> SIDE), most, _mm512_load_ps(s + SIDE));
    }
    float top = _mm512_reduce_max_ps(most) * scale;
    for (int64_t p = 0; p < panels; p++) {
        uint32_t bits = seen.keys(query, key + p * PANEL);
        const float *s = scores + p * SQUARE + query * PANEL;
        __m512 x[2];
        for (int64_t t = 0; t < 2; t++) {
            __m512 above = _mm512_fmsub_ps(_mm512_load_ps(s + t * SIDE), _mm512_set1_ps(scale), _mm512_set1_ps(top));
            x[t] = _mm512_maskz_mov_ps(__mmask16(bits >> (t * SIDE)), exponential(above));
            sum = _mm512_add_ps(sum, x[t]);
        }
        _mm512_store_si512(to + p * TILE, (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
    }
    return {_mm512_reduce_add_ps(sum), top};
}

void attend(const Shape &of, const half *q, const half *k, const half *v, half *out, float *logs) {
    const int64_t deep = of.deep(), panels = of.key_panels();
#pragma omp parallel
    {
        Unit unit;
        Room<half> query(2 * deep * TILE), keys(2 * panels * deep * TILE), values(2 * panels * deep * TILE), weights(2 * panels * TILE);
        Room<float> scores(panels * SQUARE);
        alignas(64) float square[SQUARE];
#pragma omp for schedule(dynamic)
        for (int64_t m = 0; m < of.matrices; m++) {
            of.rows(k + m * of.keys * of.size, of.keys, 0, panels, true, keys.data);
            of.columns(v + m * of.keys * of.size, of.keys, true, values.data);
            for (int64_t i = 0; i < of.query_panels(); i++) {
                Seen seen = of.seen(m, i);
                int64_t begin = seen.high ? seen.low / PANEL : 0, count = over(seen.high, PANEL) - begin;
                int64_t there = std::min(PANEL, of.queries - i * PANEL);
                for (int64_t g = m * of.group; g < (m + 1) * of.group; g++) {
                    of.rows(q + g * of.queries * of.size, of.queries, i, 1, false, query.data);
                    for (int64_t p = 0; p < count; p++) {
                        const half *beside = keys.data + (begin + p) * 2 * deep * TILE;
                        multiply(query.data, deep * TILE, beside, deep * TILE, deep, scores.data + p * SQUARE, false);
                    }
                    float part[PANEL];
                    for (int64_t r = 0; r < PANEL; r++) {
                        half *to = weights.data + r / SIDE * count * TILE + r % SIDE * DEPTH;
                        auto [sum, top] = weigh(scores.data, seen, r, begin * PANEL, count, of.scale, to);
                        part[r] = sum == 0 ? 0 : 1 / sum;
                        if (r < there) logs[g * of.queries + i * PANEL + r] = top + std::log(sum);
                    }
                    for (int64_t c = 0; c < deep; c++) {
                        const half *beside = values.data + (c * 2 * panels + begin) * TILE;
                        multiply(weights.data, count * TILE, beside, panels * TILE, count, square, false);
                        for (int64_t r = 0; r < there; r++) {
                            __m512 own = _mm512_set1_ps(part[r]), *sums = reinterpret_cast<__m512 *>(square + r * PANEL);
                            half *to = out + (g * of.queries + i * PANEL + r) * of.size + c * PANEL;
                            put(to, _mm512_mul_ps(sums[0], own), _mm512_mul_ps(sums[1], own), of.size - c * PANEL);
                        }
                    }
                }
            }
        }
    }
}

// Of 32 keys and as many queries: scores become weights and products of gradients and values become gradients of scores, in halves, key by
// key; the latter also as pairs of keys, query by query.
inline void grade(const float *scores, const float *products, const Seen &seen, int64_t key, const float *logs, const float *means, float scale,
                  half *weights, half *gradients, int64_t below, half *pairs) {
    alignas(64) static const uint16_t order[2][2 * SIDE] = {
        {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63},
    };
    bool all = seen.all(key);
    for (int64_t r = 0; r < PANEL; r += 2) {
        __m512i rows[2];
        for (int64_t one = 0; one < 2; one++) {
            int64_t at = (r + one) * PANEL, place = (r + one) / SIDE * below + (r + one) % SIDE * DEPTH;
            __m512 w[2], g[2];
            for (int64_t t = 0; t < 2; t++) {
                __mmask16 there = all ? 0xffff : seen.queries(t * SIDE, key + r + one);
                __m512 x = _mm512_load_ps(scores + at + t * SIDE);
                w[t] = exponential(_mm512_fmsub_ps(x, _mm512_set1_ps(scale), _mm512_load_ps(logs + t * SIDE)));
                w[t] = _mm512_maskz_mov_ps(there, w[t]);
                g[t] = _mm512_sub_ps(_mm512_load_ps(products + at + t * SIDE), _mm512_load_ps(means + t * SIDE));
                g[t] = _mm512_maskz_mul_ps(there, _mm512_mul_ps(g[t], w[t]), _mm512_set1_ps(scale));
            }
            _mm512_store_si512(weights + place, (__m512i)_mm512_cvtne2ps_pbh(w[1], w[0]));
            rows[one] = (__m512i)_mm512_cvtne2ps_pbh(g[1], g[0]);
            _mm512_store_si512(gradients + place, rows[one]);
        }
        for (int64_t t = 0; t < 2; t++) {
            __m512i mixed = _mm512_permutex2var_epi16(rows[0], _mm512_load_si512(order[t]), rows[1]);
            _mm512_store_si512(pairs + t * TILE + r / 2 * DEPTH, mixed);
        }
    }
}

// What is laid out once for all keys that one matrix of them is looked at by.
struct Looked {
    Room<half> query_rows, query_columns, grad_rows, grad_columns;
    Room<float> logs, means, gradients;
    explicit Looked(int64_t panels, int64_t deep)
        : query_rows(2 * panels * deep * TILE), query_columns(2 * panels * deep * TILE), grad_rows(2 * panels * deep * TILE),
          grad_columns(2 * panels * deep * TILE), logs(panels * PANEL), means(panels * PANEL), gradients(panels * deep * SQUARE) {}
};

void attend_backward(const Shape &of, const half *grad, const half *q, const half *k, const half *v, const half *out, const float *logs,
                     half *grad_q, half *grad_k, half *grad_v) {
    const int64_t deep = of.deep(), panels = of.key_panels(), rows = of.query_panels(), each = 2 * deep * TILE;
#pragma omp parallel
    {
        Unit unit;
        Looked looked(of.group * rows, deep);
        Room<half> keys(panels * each), values(panels * each), turned(panels * each), weights(2 * rows * TILE), gradients(2 * rows * TILE);
        Room<float> sums_k(deep * SQUARE), sums_v(deep * SQUARE);
        alignas(64) half pairs[2 * TILE];
        alignas(64) float scores[SQUARE], products[SQUARE];
        std::vector<Seen> seen;
#pragma omp for schedule(dynamic)
        for (int64_t m = 0; m < of.matrices; m++) {
            const half *own_k = k + m * of.keys * of.size, *own_v = v + m * of.keys * of.size;
            of.rows(own_k, of.keys, 0, panels, false, keys.data);
            of.rows(own_v, of.keys, 0, panels, false, values.data);
            of.columns(own_k, of.keys, false, turned.data);
            seen.clear();
            for (int64_t i = 0; i < rows; i++) seen.push_back(of.seen(m, i));
            for (int64_t g = 0; g < of.group; g++) {
                int64_t from = (m * of.group + g) * of.queries;
                of.rows(q + from * of.size, of.queries, 0, rows, true, looked.query_rows.data + g * rows * each);
                of.rows(grad + from * of.size, of.queries, 0, rows, true, looked.grad_rows.data + g * rows * each);
                of.columns(q + from * of.size, of.queries, true, looked.query_columns.data + g * rows * each);
                of.columns(grad + from * of.size, of.queries, true, looked.grad_columns.data + g * rows * each);
                for (int64_t i = 0; i < rows * PANEL; i++) {
                    bool there = i < of.queries;
                    const half *a = grad + (from + i) * of.size, *b = out + (from + i) * of.size;
                    __m512 sum = _mm512_setzero_ps();
                    for (int64_t c = 0; there && c < of.size; c += SIDE) {
                        sum = _mm512_fmadd_ps(floats(a + c, of.size - c), floats(b + c, of.size - c), sum);
                    }
                    looked.means.data[g * rows * PANEL + i] = _mm512_reduce_add_ps(sum);
                    looked.logs.data[g * rows * PANEL + i] = there ? logs[from + i] : 0;
                }
            }
            std::fill_n(looked.gradients.data, of.group * rows * deep * SQUARE, 0.0f);
            for (int64_t j = 0; j < panels; j++) {
                int64_t key = j * PANEL, begin = 0, end = rows;
                while (begin < end && !seen[begin].some(key)) begin++;
                while (begin < end && !seen[end - 1].some(key)) end--;
                for (int64_t g = 0; g < of.group; g++) {
                    for (int64_t i = begin; i < end; i++) {
                        int64_t place = g * rows + i;
                        half *w = weights.data + i * TILE, *s = gradients.data + i * TILE;
                        if (!seen[i].some(key)) {
                            for (half *x : {w, s}) {
                                std::memset(x, 0, TILE * sizeof(half));
                                std::memset(x + rows * TILE, 0, TILE * sizeof(half));
                            }
                            continue;
                        }
                        const half *queries = looked.query_rows.data + place * each, *grads = looked.grad_rows.data + place * each;
                        multiply(keys.data + j * each, deep * TILE, queries, deep * TILE, deep, scores, false);
                        multiply(values.data + j * each, deep * TILE, grads, deep * TILE, deep, products, false);
                        grade(scores, products, seen[i], key, looked.logs.data + place * PANEL, looked.means.data + place * PANEL, of.scale, w, s,
                              rows * TILE, pairs);
                        for (int64_t c = 0; c < deep; c++) {
                            float *to = looked.gradients.data + (place * deep + c) * SQUARE;
                            multiply(turned.data + (c * 2 * panels + j) * TILE, panels * TILE, pairs, TILE, 1, to, true);
                        }
                    }
                    for (int64_t c = 0; c < deep; c++) {
                        int64_t at = g * rows * each + (c * 2 * rows + begin) * TILE;
                        const half *grads = looked.grad_columns.data + at, *queries = looked.query_columns.data + at;
                        multiply(weights.data + begin * TILE, rows * TILE, grads, rows * TILE, end - begin, sums_v.data + c * SQUARE, g > 0);
                        multiply(gradients.data + begin * TILE, rows * TILE, queries, rows * TILE, end - begin, sums_k.data + c * SQUARE, g > 0);
                    }
                }
                for (int64_t r = 0; r < std::min(PANEL, of.keys - key); r++) {
                    for (int64_t c = 0; c < deep; c++) {
                        int64_t place = (m * of.keys + key + r) * of.size + c * PANEL;
                        const float *a = sums_k.data + c * SQUARE + r * PANEL, *b = sums_v.data + c * SQUARE + r * PANEL;
                        put(grad_k + place, _mm512_load_ps(a), _mm512_load_ps(a + SIDE), of.size - c * PANEL);
                        put(grad_v + place, _mm512_load_ps(b), _mm512_load_ps(b + SIDE), of.size - c * PANEL);
                    }
                }
            }
            const __m512i steps = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(PANEL));
            for (int64_t i = 0; i < of.group * of.queries; i++) {
                int64_t place = i / of.queries * rows + i % of.queries / PANEL, column = i % of.queries % PANEL;
                for (int64_t c = 0; c < deep; c++) {
                    const float *from = looked.gradients.data + (place * deep + c) * SQUARE + column;
                    __m512 x = _mm512_i32gather_ps(steps, from, 4), y = _mm512_i32gather_ps(steps, from + SIDE * PANEL, 4);
                    put(grad_q + (m * of.group * of.queries + i) * of.size + c * PANEL, x, y, of.size - c * PANEL);
                }
            }
        }
    }
}

}  // namespace

extern "C" void attend_tiles_half(const half *q, const half *k, const half *v, const int64_t *first, const int64_t *last, half *out, float *logs,
                            int64_t matrices, int64_t share, int64_t group, int64_t queries, int64_t keys, int64_t size, float scale) {
    attend({matrices, share, group, queries, keys, size, scale, first, last}, q, k, v, out, logs);
}

extern "C" void attend_tiles_backward_half(const half *grad, const half *q, const half *k, const half *v, const int64_t *first,
                                     const int64_t *last, const half *out, const float *logs, half *grad_q, half *grad_k, half *grad_v,
                                     int64_t matrices, int64_t share, int64_t group, int64_t queries, int64_t keys, int64_t size, float scale) {
    attend_backward({matrices, share, group, queries, keys, size, scale, first, last}, grad, q, k, v, out, logs, grad_q, grad_k, grad_v);
}

#endif
