// Attention both ways, in float for both types: scores exist for 32 queries at a time, and are made again for the gradients, from the
// logarithm of each query's sum (Dao, 2023, arXiv:2307.08691).
//
// One thread takes whatever shares keys, from its beginning to its end, so that nothing depends on the number of threads.

#include <algorithm>
#include <utility>

#include <omp.h>

#include "numbers.h"

namespace {

// What one register holds, and rows of sums that stay in registers beside each other, two registers each.
#ifdef __AVX512F__
constexpr int64_t LINE = 16, ROWS = 8;
#else
constexpr int64_t LINE = 8, ROWS = 4;
#endif
typedef float Line __attribute__((vector_size(LINE * sizeof(float)), aligned(sizeof(float)), may_alias));

constexpr int64_t PANEL = 32, SQUARE = PANEL * PANEL;

// A matrix as it is multiplied from the left: a step down to the next row, one along a row.
struct Left {
    const float *data;
    int64_t down, along;
};

// The first 32 rows of `left`, so deep, times as deep a right matrix of 32 columns, whose rows lie `stride` apart; put into `out`, whose rows
// lie `across` apart, or added to it.
inline void multiply(Left left, const float *right, int64_t stride, int64_t deep, float *out, int64_t across, bool add) {
    for (int64_t column = 0; column < PANEL; column += 2 * LINE) {
        for (int64_t row = 0; row < PANEL; row += ROWS) {
            Line sums[ROWS][2];
            float *to = out + row * across + column;
            for (int64_t r = 0; r < ROWS; r++) {
                for (int64_t t = 0; t < 2; t++) sums[r][t] = add ? *reinterpret_cast<Line *>(to + r * across + t * LINE) : Line{};
            }
            const float *from = left.data + row * left.down, *beside = right + column;
            for (int64_t k = 0; k < deep; k++, from += left.along, beside += stride) {
                Line first = *reinterpret_cast<const Line *>(beside), second = *reinterpret_cast<const Line *>(beside + LINE);
                for (int64_t r = 0; r < ROWS; r++) {
                    float x = from[r * left.down];
                    sums[r][0] += x * first;
                    sums[r][1] += x * second;
                }
            }
            for (int64_t r = 0; r < ROWS; r++) {
                for (int64_t t = 0; t < 2; t++) *reinterpret_cast<Line *>(to + r * across + t * LINE) = sums[r][t];
            }
        }
    }
}

// Queries (matrices, group, queries, size) that look at keys (matrices, keys, size), each at a range of them; ranges are (matrices / share,
// queries). Of the weights a share is dropped.
struct Shape {
    int64_t matrices, share, group, queries, keys, size;
    float scale;
    const int64_t *first, *last;
    Drop drop;

    int64_t width() const { return over(size, PANEL) * PANEL; }
    int64_t query_panels() const { return over(queries, PANEL); }
    int64_t key_panels() const { return over(keys, PANEL); }

    // The keys that a query of a matrix sees: from the first to before the second.
    std::pair<int64_t, int64_t> seen(int64_t matrix, int64_t query) const {
        int64_t at = matrix / share * queries + query;
        return query < queries && first[at] < last[at] ? std::pair(first[at], last[at]) : std::pair<int64_t, int64_t>(0, 0);
    }
    // The panels of keys that any of 32 queries sees.
    std::pair<int64_t, int64_t> seen_panels(int64_t matrix, int64_t panel) const {
        int64_t low = keys, high = 0;
        for (int64_t query = panel * PANEL; query < (panel + 1) * PANEL; query++) {
            auto [begin, end] = seen(matrix, query);
            if (begin < end) low = std::min(low, begin), high = std::max(high, end);
        }
        return low < high ? std::pair(low / PANEL, over(high, PANEL)) : std::pair<int64_t, int64_t>(0, 0);
    }
    // Rows of a matrix (lines, size) with zeros beside and below them, so many panels of 32.
    template <class T>
    void rows(const T *x, int64_t lines, int64_t count, float *to) const {
        for (int64_t i = 0, wide = width(); i < count * PANEL; i++, to += wide) {
            int64_t there = i < lines ? size : 0;
            for (int64_t c = 0; c < there; c++) to[c] = get(x[i * size + c]);
            std::fill(to + there, to + wide, 0.0f);
        }
    }
    // Panels of 32 of those rows, each turned, (size, 32).
    void turned(const float *rows, int64_t count, float *to) const {
        for (int64_t p = 0; p < count; p++) {
            for (int64_t c = 0; c < size; c++) {
                for (int64_t i = 0; i < PANEL; i++) to[(p * size + c) * PANEL + i] = rows[(p * PANEL + i) * width() + c];
            }
        }
    }
};

template <class T>
void attend(const Shape &of, const T *q, const T *k, const T *v, T *out, float *logs) {
    const int64_t wide = of.width(), count = of.key_panels(), across = count * PANEL;
#pragma omp parallel
    {
        Room<float> rows(across * wide), keys(across * wide), values(across * wide), queries(PANEL * wide), weights(PANEL * across), sums(PANEL * wide), kept(across);
#pragma omp for schedule(dynamic)
        for (int64_t m = 0; m < of.matrices; m++) {
            of.rows(k + m * of.keys * of.size, of.keys, count, rows.data);
            of.turned(rows.data, count, keys.data);
            of.rows(v + m * of.keys * of.size, of.keys, count, values.data);
            for (int64_t g = m * of.group; g < (m + 1) * of.group; g++) {
                for (int64_t i = 0; i < of.query_panels(); i++) {
                    int64_t top = g * of.queries + i * PANEL, there = std::min(PANEL, of.queries - i * PANEL);
                    auto [low, high] = of.seen_panels(m, i);
                    of.rows(q + top * of.size, there, 1, queries.data);
                    for (int64_t p = low; p < high; p++) {
                        multiply({queries.data, wide, 1}, keys.data + p * of.size * PANEL, PANEL, of.size, weights.data + p * PANEL, across, false);
                    }
                    float part[PANEL] = {};
                    for (int64_t r = 0; r < PANEL; r++) {
                        auto [begin, end] = of.seen(m, i * PANEL + r);
                        float *w = weights.data + r * across, most = largest(w + begin, end - begin), sum = 0;
                        for (int64_t j = begin; j < end; j++) sum += w[j] = exponential((w[j] - most) * of.scale);
                        for (int64_t j = low * PANEL; j < begin; j++) w[j] = 0;
                        for (int64_t j = std::max(low * PANEL, end); j < high * PANEL; j++) w[j] = 0;
                        if (of.drop.any()) {
                            of.drop.factors(top + r, begin, end - begin, kept.data);
                            for (int64_t j = begin; j < end; j++) w[j] *= kept.data[j - begin];
                        }
                        part[r] = begin < end ? 1 / sum : 0;
                        if (r < there) logs[top + r] = begin < end ? most * of.scale + std::log(sum) : 0;
                    }
                    for (int64_t c = 0; c < wide; c += PANEL) {
                        int64_t from = low * PANEL;
                        multiply({weights.data + from, across, 1}, values.data + from * wide + c, wide, (high - low) * PANEL, sums.data + c, wide, false);
                    }
                    for (int64_t r = 0; r < there; r++) {
                        for (int64_t c = 0; c < of.size; c++) put(out[(top + r) * of.size + c], sums.data[r * wide + c] * part[r]);
                    }
                }
            }
        }
    }
}

// Of 32 queries and as many keys, from `key` on: scores become the weights that were kept, products of gradients and values become gradients
// of scores. `row` is the first query's among all.
inline void grade(const Shape &of, int64_t matrix, int64_t query, int64_t key, int64_t row, const float *logs, const float *means, float *scores,
                  float *products) {
    for (int64_t r = 0; r < PANEL; r++) {
        auto [begin, end] = of.seen(matrix, query + r);
        int32_t first = int32_t(std::max<int64_t>(begin - key, 0)), last = int32_t(std::min(end - key, PANEL));
        float *s = scores + r * PANEL, *p = products + r * PANEL, kept[PANEL];
        std::fill_n(kept, PANEL, 1.0f);
        if (of.drop.any()) of.drop.factors(row + r, key, PANEL, kept);
        for (int32_t j = 0; j < PANEL; j++) {
            bool there = first <= j && j < last;
            float w = exponential(s[j] * of.scale - logs[r]), gradient = of.scale * w * (p[j] * kept[j] - means[r]);
            p[j] = there ? gradient : 0.0f;
            s[j] = there ? w * kept[j] : 0.0f;
        }
    }
}

template <class T>
void attend_backward(const Shape &of, const T *grad, const T *q, const T *k, const T *v, const T *out, const float *logs, T *grad_q, T *grad_k,
                     T *grad_v) {
    const int64_t wide = of.width(), count = of.key_panels(), lines = of.query_panels() * PANEL;
#pragma omp parallel
    {
        Room<float> rows(count * PANEL * wide), keys(count * PANEL * wide), values(count * PANEL * wide);
        Room<float> queries(of.group * lines * wide), grads(of.group * lines * wide), sums_q(of.group * lines * wide);
        Room<float> own_logs(of.group * lines), means(of.group * lines), sums_k(PANEL * wide), sums_v(PANEL * wide), scores(SQUARE), products(SQUARE);
#pragma omp for schedule(dynamic)
        for (int64_t m = 0; m < of.matrices; m++) {
            of.rows(v + m * of.keys * of.size, of.keys, count, rows.data);
            of.turned(rows.data, count, values.data);
            of.rows(k + m * of.keys * of.size, of.keys, count, rows.data);
            of.turned(rows.data, count, keys.data);
            std::fill_n(sums_q.data, of.group * lines * wide, 0.0f);
            for (int64_t g = 0; g < of.group; g++) {
                int64_t from = (m * of.group + g) * of.queries;
                of.rows(q + from * of.size, of.queries, of.query_panels(), queries.data + g * lines * wide);
                of.rows(grad + from * of.size, of.queries, of.query_panels(), grads.data + g * lines * wide);
                for (int64_t i = 0; i < lines; i++) {
                    float sum = 0;
                    for (int64_t c = 0; i < of.queries && c < of.size; c++) sum += grads.data[(g * lines + i) * wide + c] * get(out[(from + i) * of.size + c]);
                    means.data[g * lines + i] = sum;
                    own_logs.data[g * lines + i] = i < of.queries ? logs[from + i] : 0;
                }
            }
            for (int64_t j = 0; j < count; j++) {
                std::fill_n(sums_k.data, PANEL * wide, 0.0f);
                std::fill_n(sums_v.data, PANEL * wide, 0.0f);
                for (int64_t i = 0; i < of.query_panels(); i++) {
                    auto [low, high] = of.seen_panels(m, i);
                    if (j < low || j >= high) continue;
                    for (int64_t g = 0; g < of.group; g++) {
                        int64_t line = g * lines + i * PANEL, place = line * wide;
                        multiply({queries.data + place, wide, 1}, keys.data + j * of.size * PANEL, PANEL, of.size, scores.data, PANEL, false);
                        multiply({grads.data + place, wide, 1}, values.data + j * of.size * PANEL, PANEL, of.size, products.data, PANEL, false);
                        grade(of, m, i * PANEL, j * PANEL, (m * of.group + g) * of.queries + i * PANEL, own_logs.data + line, means.data + line,
                              scores.data, products.data);
                        for (int64_t c = 0; c < wide; c += PANEL) {
                            multiply({scores.data, 1, PANEL}, grads.data + place + c, wide, PANEL, sums_v.data + c, wide, true);
                            multiply({products.data, 1, PANEL}, queries.data + place + c, wide, PANEL, sums_k.data + c, wide, true);
                            multiply({products.data, PANEL, 1}, rows.data + j * PANEL * wide + c, wide, PANEL, sums_q.data + place + c, wide, true);
                        }
                    }
                }
                for (int64_t r = 0; r < std::min(PANEL, of.keys - j * PANEL); r++) {
                    int64_t to = (m * of.keys + j * PANEL + r) * of.size;
                    for (int64_t c = 0; c < of.size; c++) put(grad_k[to + c], sums_k.data[r * wide + c]), put(grad_v[to + c], sums_v.data[r * wide + c]);
                }
            }
            for (int64_t i = 0; i < of.group * of.queries; i++) {
                const float *from = sums_q.data + (i / of.queries * lines + i % of.queries) * wide;
                for (int64_t c = 0; c < of.size; c++) put(grad_q[(m * of.group * of.queries + i) * of.size + c], from[c]);
            }
        }
    }
}

}  // namespace

#define EVERY_TYPE(define) define(float, float) define(half, half)
#define DEFINE(T, name)                                                                                                                   \
    extern "C" void attend_##name(const T *q, const T *k, const T *v, const int64_t *first, const int64_t *last, T *out, float *logs,     \
                                  int64_t matrices, int64_t share, int64_t group, int64_t queries, int64_t keys, int64_t size,            \
                                  float scale, int64_t seed, float dropped) {                                                             \
        attend({matrices, share, group, queries, keys, size, scale, first, last, Drop(seed, dropped)}, q, k, v, out, logs);               \
    }                                                                                                                                     \
    extern "C" void attend_backward_##name(const T *grad, const T *q, const T *k, const T *v, const int64_t *first, const int64_t *last,  \
                                           const T *out, const float *logs, T *gq, T *gk, T *gv, int64_t matrices, int64_t share,         \
                                           int64_t group, int64_t queries, int64_t keys, int64_t size, float scale, int64_t seed,         \
                                           float dropped) {                                                                               \
        Shape of{matrices, share, group, queries, keys, size, scale, first, last, Drop(seed, dropped)};                                   \
        attend_backward(of, grad, q, k, v, out, logs, gq, gk, gv);                                                                        \
    }
EVERY_TYPE(DEFINE)
