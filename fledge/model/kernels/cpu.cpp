// The parts of a training step that PyTorch leaves in many passes over memory, each in one, on the CPU.
//
// What each function computes stands in functions.py beside it in plain PyTorch; checks.py compares the two when this is loaded.
// Arrays are contiguous; sums are taken in float. Every function exists for both types:
// name_float and name_half.

#include <vector>

#include <omp.h>

#include "numbers.h"

namespace {

// Adds up what each thread has gathered for the same `size` numbers.
struct Gathered {
    int64_t size;
    std::vector<float> parts;
    explicit Gathered(int64_t size) : size(size), parts(size * omp_get_max_threads(), 0.0f) {}
    float *mine() { return parts.data() + size * omp_get_thread_num(); }
    void into(float *sum) {
        for (int64_t i = 0; i < size; i++) {
            float total = 0;
            for (size_t at = i; at < parts.size(); at += size) total += parts[at];
            sum[i] = total;
        }
    }
};

// out = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps), for each of `rows` rows.
template <class T>
void rms_norm(const float *x, const float *weight, T *out, float *rstd, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * width;
        float sum = 0;
        for (int64_t i = 0; i < width; i++) sum += in[i] * in[i];
        float scale = rstd[row] = 1.0f / std::sqrt(sum / width + eps);
        for (int64_t i = 0; i < width; i++) put(out[row * width + i], in[i] * scale * weight[i]);
    }
}

template <class T>
void rms_norm_backward(const T *grad, const float *x, const float *weight, const float *rstd, float *grad_x, float *grad_weight,
                       int64_t rows, int64_t width) {
    Gathered gathered(width);
#pragma omp parallel
    {
        float *mine = gathered.mine();
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const T *g = grad + row * width;
            const float *in = x + row * width;
            float scale = rstd[row], dot = 0;
            for (int64_t i = 0; i < width; i++) dot += get(g[i]) * weight[i] * in[i];
            float along = dot * scale * scale / width;
            for (int64_t i = 0; i < width; i++) {
                float gradient = get(g[i]);
                grad_x[row * width + i] = scale * (gradient * weight[i] - along * in[i]);
                mine[i] += gradient * in[i] * scale;
            }
        }
    }
    gathered.into(grad_weight);
}

// out = (x - mean) * rstd * weight + bias with rstd = 1 / sqrt(variance + eps), for each of `rows` rows; there may be no bias.
template <class T>
void layer_norm(const float *x, const float *weight, const float *bias, T *out, float *mean, float *rstd, int64_t rows, int64_t width,
                float eps) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * width;
        T *to = out + row * width;
        float sum = 0, squares = 0;
        for (int64_t i = 0; i < width; i++) sum += in[i];
        float middle = mean[row] = sum / width;
        for (int64_t i = 0; i < width; i++) squares += (in[i] - middle) * (in[i] - middle);
        float scale = rstd[row] = 1.0f / std::sqrt(squares / width + eps);
        if (bias) {
            for (int64_t i = 0; i < width; i++) put(to[i], (in[i] - middle) * scale * weight[i] + bias[i]);
        } else {
            for (int64_t i = 0; i < width; i++) put(to[i], (in[i] - middle) * scale * weight[i]);
        }
    }
}

template <class T>
void layer_norm_backward(const T *grad, const float *x, const float *weight, const float *mean, const float *rstd, float *grad_x,
                         float *grad_weight, float *grad_bias, int64_t rows, int64_t width) {
    Gathered gathered(2 * width);
    std::vector<float> both(2 * width);
#pragma omp parallel
    {
        float *mine = gathered.mine(), *mine_bias = mine + width;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const T *g = grad + row * width;
            const float *in = x + row * width;
            float middle = mean[row], scale = rstd[row], sum = 0, dot = 0;
            for (int64_t i = 0; i < width; i++) {
                float gradient = get(g[i]), normal = (in[i] - middle) * scale;
                mine[i] += gradient * normal;
                mine_bias[i] += gradient;
                sum += gradient * weight[i];
                dot += gradient * weight[i] * normal;
            }
            sum /= width;
            dot /= width;
            for (int64_t i = 0; i < width; i++) {
                grad_x[row * width + i] = scale * (get(g[i]) * weight[i] - sum - (in[i] - middle) * scale * dot);
            }
        }
    }
    gathered.into(both.data());
    std::memcpy(grad_weight, both.data(), width * sizeof(float));
    if (grad_bias) std::memcpy(grad_bias, both.data() + width, width * sizeof(float));
}

// Heads of one token, (rows, length, heads, size), normalised (where there is a weight), turned by their position's angle (where
// there is a cosine), as (rows, heads, length, size). The angles are (1 or rows, length, size / 2): `own` says whether each row has its own.
template <class T>
void turn_heads(const T *x, const float *weight, const float *cosine, const float *sine, T *out, float *rstd, int64_t rows, int64_t length,
                int64_t heads, int64_t size, int64_t own, float eps) {
    int64_t halves = size / 2;
#pragma omp parallel
    {
        std::vector<float> line(size);
        float *v = line.data();
#pragma omp for schedule(static)
        for (int64_t token = 0; token < rows * length; token++) {
            int64_t row = token / length, place = token % length, angle = (own ? token : place) * halves;
            for (int64_t head = 0; head < heads; head++) {
                const T *in = x + (token * heads + head) * size;
                T *to = out + ((row * heads + head) * length + place) * size;
                for (int64_t i = 0; i < size; i++) v[i] = get(in[i]);
                if (weight) {
                    float sum = 0;
                    for (int64_t i = 0; i < size; i++) sum += v[i] * v[i];
                    float scale = rstd[token * heads + head] = 1.0f / std::sqrt(sum / size + eps);
                    for (int64_t i = 0; i < size; i++) v[i] *= scale * weight[i];
                }
                if (cosine) {
                    const float *c = cosine + angle, *s = sine + angle;
                    for (int64_t i = 0; i < halves; i++) {
                        float first = v[i], second = v[halves + i];
                        put(to[i], first * c[i] - second * s[i]);
                        put(to[halves + i], second * c[i] + first * s[i]);
                    }
                } else {
                    for (int64_t i = 0; i < size; i++) put(to[i], v[i]);
                }
            }
        }
    }
}

template <class T>
void turn_heads_backward(const T *grad, const T *x, const float *weight, const float *cosine, const float *sine, const float *rstd,
                         T *grad_x, float *grad_weight, int64_t rows, int64_t length, int64_t heads, int64_t size, int64_t own) {
    int64_t halves = size / 2;
    Gathered gathered(weight ? size : 0);
#pragma omp parallel
    {
        std::vector<float> lines(2 * size);
        float *g = lines.data(), *v = g + size, *mine = gathered.mine();
#pragma omp for schedule(static)
        for (int64_t token = 0; token < rows * length; token++) {
            int64_t row = token / length, place = token % length, angle = (own ? token : place) * halves;
            for (int64_t head = 0; head < heads; head++) {
                int64_t at = (token * heads + head) * size;
                const T *from = grad + ((row * heads + head) * length + place) * size;
                if (cosine) {
                    const float *c = cosine + angle, *s = sine + angle;
                    for (int64_t i = 0; i < halves; i++) {
                        float first = get(from[i]), second = get(from[halves + i]);
                        g[i] = first * c[i] + second * s[i];
                        g[halves + i] = second * c[i] - first * s[i];
                    }
                } else {
                    for (int64_t i = 0; i < size; i++) g[i] = get(from[i]);
                }
                if (weight) {
                    float scale = rstd[token * heads + head], dot = 0;
                    for (int64_t i = 0; i < size; i++) v[i] = get(x[at + i]);
                    for (int64_t i = 0; i < size; i++) dot += g[i] * weight[i] * v[i];
                    float along = dot * scale * scale / size;
                    for (int64_t i = 0; i < size; i++) mine[i] += g[i] * v[i] * scale;
                    for (int64_t i = 0; i < size; i++) g[i] = scale * (g[i] * weight[i] - along * v[i]);
                }
                for (int64_t i = 0; i < size; i++) put(grad_x[at + i], g[i]);
            }
        }
    }
    if (weight) gathered.into(grad_weight);
}

// A share of the numbers becomes zero, the others grow by 1 / (1 - share).
template <class T>
void drop(const T *x, T *out, int64_t count, int64_t seed, float share) {
    const int64_t block = 4096;
    const Drop drop(seed, share);
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < count; begin += block) {
        uint32_t size = uint32_t(begin + block < count ? block : count - begin), row = uint32_t(begin >> 32), first = uint32_t(begin);
        for (uint32_t i = 0; i < size; i++) {
            float kept = get(x[begin + i]) * drop.scale;
            put(out[begin + i], drop.takes(row, first + i) ? 0.0f : kept);
        }
    }
}

// The sum of rows; each of its numbers is added up in their order.
template <class T>
void sum_rows(const T *x, float *sum, int64_t rows, int64_t width) {
    const int64_t block = 256;
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < width; begin += block) {
        int64_t size = begin + block < width ? block : width - begin;
        float totals[block] = {};
        for (int64_t row = 0; row < rows; row++) {
            const T *in = x + row * width + begin;
            for (int64_t i = 0; i < size; i++) totals[i] += get(in[i]);
        }
        std::memcpy(sum + begin, totals, size * sizeof(float));
    }
}

// silu(gate) * up.
template <class T>
void gated_silu(const T *gate, const T *up, T *out, int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        float x = get(gate[i]);
        put(out[i], x * sigmoid(x) * get(up[i]));
    }
}

template <class T>
void gated_silu_backward(const T *grad, const T *gate, const T *up, T *grad_gate, T *grad_up, int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        float x = get(gate[i]), s = sigmoid(x), g = get(grad[i]);
        put(grad_gate[i], g * get(up[i]) * s * (1.0f + x * (1.0f - s)));
        put(grad_up[i], g * x * s);
    }
}

// x times the share of a normal distribution below it.
template <class T>
void gelu(const T *x, T *out, int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        float in = get(x[i]), density;
        put(out[i], in * normal_share(in, density));
    }
}

template <class T>
void gelu_backward(const T *grad, const T *x, T *grad_x, int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        float in = get(x[i]), density, share = normal_share(in, density);
        put(grad_x[i], get(grad[i]) * (share + in * density));
    }
}

// The same with that share as sigmoid(sqrt(8 / pi) * (x + 0.044715 x^3)).
template <class T>
void gelu_tanh(const T *x, T *out, int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        float in = get(x[i]);
        put(out[i], in * sigmoid(1.59576912f * in * (1.0f + 0.044715f * in * in)));
    }
}

template <class T>
void gelu_tanh_backward(const T *grad, const T *x, T *grad_x, int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) {
        float in = get(x[i]), s = sigmoid(1.59576912f * in * (1.0f + 0.044715f * in * in));
        float steep = 1.59576912f * (1.0f + 3 * 0.044715f * in * in);
        put(grad_x[i], get(grad[i]) * s * (1.0f + in * (1.0f - s) * steep));
    }
}

// Scores become the gradient of the summed cross-entropy in place: softmax minus one at the label. Returns the loss; rows are added in order.
template <class T>
float cross_entropy(T *scores, const int64_t *labels, int64_t rows, int64_t words) {
    std::vector<double> losses(rows);
#pragma omp parallel
    {
        std::vector<float> line(words);
        float *v = line.data();
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            T *s = scores + row * words;
            for (int64_t i = 0; i < words; i++) v[i] = get(s[i]);
            float most = largest(v, words), sum = 0;
            float chosen = v[labels[row]] - most;
            for (int64_t i = 0; i < words; i++) sum += v[i] = exponential(v[i] - most);
            float part = 1.0f / sum;
            v[labels[row]] -= sum;
            for (int64_t i = 0; i < words; i++) put(s[i], v[i] * part);
            losses[row] = std::log(double(sum)) - chosen;
        }
    }
    double total = 0;
    for (double loss : losses) total += loss;
    return float(total);
}

}  // namespace

#define EVERY_TYPE(define) define(float, float) define(half, half)
#define DEFINE(T, name)                                                                                                                  \
    extern "C" void rms_norm_##name(const float *x, const float *w, T *out, float *rstd, int64_t rows, int64_t width, float eps) {        \
        rms_norm(x, w, out, rstd, rows, width, eps);                                                                                      \
    }                                                                                                                                     \
    extern "C" void rms_norm_backward_##name(const T *g, const float *x, const float *w, const float *rstd, float *gx, float *gw,         \
                                             int64_t rows, int64_t width) {                                                               \
        rms_norm_backward(g, x, w, rstd, gx, gw, rows, width);                                                                            \
    }                                                                                                                                     \
    extern "C" void layer_norm_##name(const float *x, const float *w, const float *b, T *out, float *mean, float *rstd, int64_t rows,     \
                                      int64_t width, float eps) {                                                                         \
        layer_norm(x, w, b, out, mean, rstd, rows, width, eps);                                                                           \
    }                                                                                                                                     \
    extern "C" void layer_norm_backward_##name(const T *g, const float *x, const float *w, const float *mean, const float *rstd,          \
                                               float *gx, float *gw, float *gb, int64_t rows, int64_t width) {                            \
        layer_norm_backward(g, x, w, mean, rstd, gx, gw, gb, rows, width);                                                                \
    }                                                                                                                                     \
    extern "C" void turn_heads_##name(const T *x, const float *w, const float *c, const float *s, T *out, float *rstd, int64_t rows,      \
                                      int64_t length, int64_t heads, int64_t size, int64_t own, float eps) {                              \
        turn_heads(x, w, c, s, out, rstd, rows, length, heads, size, own, eps);                                                           \
    }                                                                                                                                     \
    extern "C" void turn_heads_backward_##name(const T *g, const T *x, const float *w, const float *c, const float *s,                    \
                                               const float *rstd, T *gx, float *gw, int64_t rows, int64_t length, int64_t heads,          \
                                               int64_t size, int64_t own) {                                                               \
        turn_heads_backward(g, x, w, c, s, rstd, gx, gw, rows, length, heads, size, own);                                                 \
    }                                                                                                                                     \
    extern "C" void drop_##name(const T *x, T *out, int64_t count, int64_t seed, float share) { drop(x, out, count, seed, share); }       \
    extern "C" void sum_rows_##name(const T *x, float *sum, int64_t rows, int64_t width) { sum_rows(x, sum, rows, width); }               \
    extern "C" void gated_silu_##name(const T *gate, const T *up, T *out, int64_t count) { gated_silu(gate, up, out, count); }            \
    extern "C" void gated_silu_backward_##name(const T *g, const T *gate, const T *up, T *ggate, T *gup, int64_t count) {                 \
        gated_silu_backward(g, gate, up, ggate, gup, count);                                                                              \
    }                                                                                                                                     \
    extern "C" void gelu_##name(const T *x, T *out, int64_t count) { gelu(x, out, count); }                                               \
    extern "C" void gelu_backward_##name(const T *g, const T *x, T *gx, int64_t count) { gelu_backward(g, x, gx, count); }                \
    extern "C" void gelu_tanh_##name(const T *x, T *out, int64_t count) { gelu_tanh(x, out, count); }                                     \
    extern "C" void gelu_tanh_backward_##name(const T *g, const T *x, T *gx, int64_t count) { gelu_tanh_backward(g, x, gx, count); }      \
    extern "C" float cross_entropy_##name(T *scores, const int64_t *labels, int64_t rows, int64_t words) {                                \
        return cross_entropy(scores, labels, rows, words);                                                                                \
    }
EVERY_TYPE(DEFINE)
