// One token for each of a few rows through a whole trunk in one call, and few rows times a matrix: as fast as the weights come from memory.
//
// The compiler has no leave to reorder or to contract sums here. Each sum is taken in the order that stands below, which neither the
// other rows nor the number of threads decide: so a row's numbers are the same, bit for bit, whatever is computed beside it.
//
// What is computed stands in the modules of the trunk; decoding.py fills in the structures, checks.py compares the two. Weights and cache are
// of one type T, float or half, matrices also of 8 bits; what passes between two products is float, and rounded to T where a product reads it.

#include <initializer_list>
#include <vector>

#include <omp.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "numbers.h"

extern "C" {

struct Matrix {  // y = weight x + bias; no outputs: it is not there. With scales the weight is int8_t, times the scale of its output
    const void *weight, *bias;
    int64_t outputs, inputs;
    const float *scales;
};

struct Norm {
    int64_t kind;  // 0 none, 1 root mean square, 2 layer
    const void *weight, *bias;
    float eps, offset;
};

struct Sublayer {  // norm_sum(x + norm_out(inner(norm_in(x))))
    Norm in, out, sum;
};

struct Turn {  // how fast the pairs of a head turn, and how much they grow
    const float *frequencies;
    int64_t pairs;
    float grown;
};

struct View {  // how far to the left a query sees, or -1, of what lies in a cache of `size` places a slot, (slots, size)
    int64_t left, size;
    const int64_t *positions, *documents;
};

struct Layer {
    Sublayer attention, mlp;
    Matrix q, k, v, o, gate, up, down;
    Norm q_norm, k_norm;
    const void *sinks;
    void *keys, *values;  // (slots, kv_heads, size of the view, head_size)
    int64_t heads, kv_heads, head_size, norms_over_width, turn, view, activation;
    float scale, soft_cap, limit, up_offset;  // without a cap or limit infinite
};

struct Trunk {
    const Layer *layers;
    const Turn *turns;
    const View *views;
    int64_t depth, turn_count, view_count, width;
    Norm final;
};

struct Rows {  // of each row its slot, the number of its token there, and where that stands; token n lies at place n modulo size
    const int64_t *slots, *numbers, *positions, *documents;
    int64_t count;
};
}

namespace {

typedef float lanes __attribute__((vector_size(64)));
typedef uint32_t whole_lanes __attribute__((vector_size(64)));
typedef uint16_t half_lanes __attribute__((vector_size(32)));
constexpr int64_t LANES = 16;
constexpr int64_t NEAREST = 24 * 1024;  // bytes of x that stay in the nearest cache while a matrix passes through it

inline lanes wide(const float *from) {
    lanes to;
    std::memcpy(&to, from, sizeof to);
    return to;
}

inline lanes wide(const half *from) {
    half_lanes bits;
    std::memcpy(&bits, from, sizeof bits);
    whole_lanes shifted = __builtin_convertvector(bits, whole_lanes) << 16;
    lanes to;
    std::memcpy(&to, &shifted, sizeof to);
    return to;
}

inline lanes wide(const int8_t *from) {
#if defined(__AVX512F__)
    return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#else
    lanes to;
    for (int64_t i = 0; i < LANES; i++) to[i] = from[i];
    return to;
#endif
}

// The first `count` numbers, then zeros.
template <class T>
inline lanes part(const T *from, int64_t count) {
    T padded[LANES] = {};
    std::memcpy(padded, from, count * sizeof(T));
    return wide(padded);
}

// How a product with vectors of T takes numbers: `SIZE` at a time, of which the last may be fewer.
template <class T>
struct Pieces {
    typedef lanes piece;
    static constexpr int64_t SIZE = LANES;
    template <class W>
    static piece whole(const W *from) {
        return wide(from);
    }
    template <class W>
    static piece some(const W *from, int64_t count) {
        return part(from, count);
    }
    static lanes add(lanes sum, piece a, piece b) {
#if defined(__AVX512F__)
        return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#else
        return sum + a * b;
#endif
    }
};

#if defined(__AVX512BF16__)
template <>
struct Pieces<half> {
    typedef __m512bh piece;
    static constexpr int64_t SIZE = 2 * LANES;
    static piece whole(const half *from) { return (__m512bh)_mm512_loadu_si512(from); }
    static piece some(const half *from, int64_t count) { return (__m512bh)_mm512_maskz_loadu_epi16((1u << count) - 1, from); }
    static piece whole(const int8_t *from) {  // whole numbers up to 127 are exact
        return _mm512_cvtne2ps_pbh((__m512)wide(from + LANES), (__m512)wide(from));
    }
    static piece some(const int8_t *from, int64_t count) {
        int8_t padded[SIZE] = {};
        std::memcpy(padded, from, count);
        return whole(padded);
    }
    static lanes add(lanes sum, piece a, piece b) { return (lanes)_mm512_dpbf16_ps((__m512)sum, a, b); }
};
#endif

// The sum of all lanes: the upper half onto the lower one, until one is left.
inline float total(lanes v) {
#if defined(__AVX512F__)
    __m256 eight = _mm256_add_ps((__m256)_mm512_castpd512_pd256((__m512d)v), (__m256)_mm512_extractf64x4_pd((__m512d)v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
    float each[LANES];
    std::memcpy(each, &v, sizeof v);
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t i = 0; i < half; i++) each[i] += each[i + half];
    return each[0];
#endif
}

template <int R>
inline void totals(const lanes *sums, float *out, int64_t apart) {
    for (int r = 0; r < R; r++) out[r * apart] = total(sums[r]);
}

#if defined(__AVX512F__)
template <>
inline void totals<8>(const lanes *sums, float *out, int64_t apart) {  // the same additions, for eight at once
    __m256 eights[8], fours[4];
    for (int r = 0; r < 8; r++) {
        __m512d v = (__m512d)sums[r];
        eights[r] = _mm256_add_ps((__m256)_mm512_castpd512_pd256(v), (__m256)_mm512_extractf64x4_pd(v, 1));
    }
    for (int r = 0; r < 4; r++) {
        __m256 a = eights[r], b = eights[r + 4];
        fours[r] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    __m256 twos = _mm256_add_ps(_mm256_shuffle_ps(fours[0], fours[1], 0x44), _mm256_shuffle_ps(fours[0], fours[1], 0xee));
    __m256 more = _mm256_add_ps(_mm256_shuffle_ps(fours[2], fours[3], 0x44), _mm256_shuffle_ps(fours[2], fours[3], 0xee));
    float ones[8];
    _mm256_storeu_ps(ones, _mm256_add_ps(_mm256_shuffle_ps(twos, more, 0x88), _mm256_shuffle_ps(twos, more, 0xdd)));
    for (int r = 0; r < 8; r++) out[r * apart] = ones[r];
}
#endif

// O rows of a matrix times R vectors, all of `size` numbers and side by side; a vector's sums go beside each other, the vectors' `apart`.
// With `ahead` the following rows of the matrix are fetched meanwhile: where there is much to compute the processor forgets to.
template <int O, int R, class W, class T>
inline void products(const W *w, const T *x, int64_t size, float *out, int64_t apart, bool ahead) {
    typedef Pieces<T> P;
    lanes sums[O][R] = {};
    typename P::piece weights[O];
    int64_t i = 0;
    for (; i + P::SIZE <= size; i += P::SIZE) {
        for (int o = 0; o < O; o++) {
            weights[o] = P::whole(w + o * size + i);
            if (ahead) __builtin_prefetch(w + (O + o) * size + i);
        }
        for (int r = 0; r < R; r++) {
            typename P::piece vector = P::whole(x + r * size + i);
            for (int o = 0; o < O; o++) sums[o][r] = P::add(sums[o][r], weights[o], vector);
        }
    }
    if (i < size) {
        for (int o = 0; o < O; o++) weights[o] = P::some(w + o * size + i, size - i);
        for (int r = 0; r < R; r++) {
            typename P::piece vector = P::some(x + r * size + i, size - i);
            for (int o = 0; o < O; o++) sums[o][r] = P::add(sums[o][r], weights[o], vector);
        }
    }
    for (int o = 0; o < O; o++) totals<R>(sums[o], out + o, apart);
}

// The same for any number of vectors. How many of them are taken at once changes no sum.
template <int O, class W, class T>
void products(const W *w, const T *x, int64_t size, int64_t rows, float *out, int64_t apart) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) products<O, 8>(w, x + r * size, size, out + r * apart, apart, r == 0);
    for (; r + 4 <= rows; r += 4) products<O, 4>(w, x + r * size, size, out + r * apart, apart, r == 0);
    for (; r + 2 <= rows; r += 2) products<O, 2>(w, x + r * size, size, out + r * apart, apart, r == 0);
    for (; r < rows; r++) products<O, 1>(w, x + r * size, size, out + r * apart, apart, false);
}

template <class T>
float product(const T *a, const T *b, int64_t size) {
    float sum;
    products<1, 1>(a, b, size, &sum, 0, false);
    return sum;
}

// This thread's part of so many things, side by side, so that it reads memory in one direction.
struct Share {
    int64_t begin, end;
    explicit Share(int64_t count) {
        int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        begin = count * thread / threads;
        end = count * (thread + 1) / threads;
    }
};

// Outputs `begin` to `end` of a matrix of W for all rows of x, without scales and bias; a row's outputs lie `apart` from the next one's.
template <class W, class T>
void multiply_plain(const Matrix &matrix, const T *x, int64_t rows, float *out, int64_t apart, int64_t begin, int64_t end) {
    const W *weight = static_cast<const W *>(matrix.weight);
    int64_t o = begin;
    if (rows >= 8 && 8 * matrix.inputs * int64_t(sizeof(T)) > NEAREST)  // then two rows of the matrix share what is read of x from farther
        for (; o + 2 <= end; o += 2) products<2>(weight + o * matrix.inputs, x, matrix.inputs, rows, out + o, apart);
    for (; o < end; o++) products<1>(weight + o * matrix.inputs, x, matrix.inputs, rows, out + o, apart);
}

// The same with both.
template <class T>
void multiply(const Matrix &matrix, const T *x, int64_t rows, float *out, int64_t apart, int64_t begin, int64_t end) {
    const T *bias = static_cast<const T *>(matrix.bias);
    if (matrix.scales)
        multiply_plain<int8_t>(matrix, x, rows, out, apart, begin, end);
    else
        multiply_plain<T>(matrix, x, rows, out, apart, begin, end);
    for (int64_t r = 0; r < rows; r++) {
        float *line = out + r * apart;
        if (matrix.scales)
            for (int64_t o = begin; o < end; o++) line[o] *= matrix.scales[o];
        if (bias)
            for (int64_t o = begin; o < end; o++) line[o] += get(bias[o]);
    }
}

// The outputs of several matrices beside each other, this thread's share of them.
template <class T>
void multiply(std::initializer_list<const Matrix *> matrices, const T *x, int64_t rows, float *out) {
    int64_t all = 0, before = 0;
    for (const Matrix *matrix : matrices) all += matrix->outputs;
    Share share(all);
    for (const Matrix *matrix : matrices) {
        int64_t begin = share.begin < before ? 0 : share.begin - before, end = share.end - before;
        multiply(*matrix, x, rows, out + before, all, begin, end < matrix->outputs ? end : matrix->outputs);
        before += matrix->outputs;
    }
}

template <class T>
void normalise(const Norm &norm, float *x, int64_t size) {
    if (!norm.kind) return;
    const T *weight = static_cast<const T *>(norm.weight), *bias = static_cast<const T *>(norm.bias);
    if (norm.kind == 2) {
        lanes sums = {};
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) sums += wide(x + i);
        float mean = total(sums + part(x + i, size - i)) / size;
        for (i = 0; i < size; i++) x[i] -= mean;
    }
    float scale = 1.0f / std::sqrt(product<float>(x, x, size) / size + norm.eps);
    for (int64_t i = 0; i < size; i++) x[i] = x[i] * scale * (norm.offset + get(weight[i]));
    if (bias)
        for (int64_t i = 0; i < size; i++) x[i] += get(bias[i]);
}

template <class T>
void round_to(const float *from, T *to, int64_t size) {
    for (int64_t i = 0; i < size; i++) put(to[i], from[i]);
}

float activated(int64_t activation, float x) {
    float density;
    switch (activation) {
        case 0: return x * normal_share(x, density);                                          // gelu
        case 1: return x * sigmoid(1.59576912f * x * (1.0f + 0.044715f * x * x));             // gelu_tanh
        case 2: return x * sigmoid(1.702f * x);                                               // gelu_sigmoid
        case 3: return x < 0 ? 0.0f : x;                                                      // relu
        case 4: return x * sigmoid(x);                                                        // silu
        default: return std::tanh(x);
    }
}

// act(gate) * up into `up`, or act(up) without a gate.
void activate(const Layer &layer, const float *gate, float *up, int64_t size) {
    switch (layer.activation) {  // so that each loop has one function in it
#define LOOP(number)                                                                                                                     \
    case number:                                                                                                                         \
        if (gate) {                                                                                                                      \
            for (int64_t i = 0; i < size; i++) {                                                                                         \
                float open = gate[i] > layer.limit ? layer.limit : gate[i], bound = up[i] > layer.limit ? layer.limit : up[i];           \
                up[i] = activated(number, open) * ((bound < -layer.limit ? -layer.limit : bound) + layer.up_offset);                     \
            }                                                                                                                            \
        } else {                                                                                                                         \
            for (int64_t i = 0; i < size; i++) up[i] = activated(number, up[i]);                                                         \
        }                                                                                                                                \
        break;
        LOOP(0) LOOP(1) LOOP(2) LOOP(3) LOOP(4) LOOP(5)
#undef LOOP
    }
}

// One query looks at the keys that it sees; `weights` has room for as many.
template <class T>
void look(const Layer &layer, int64_t head, const T *query, const T *keys, const T *values, const std::vector<int32_t> &seen, float *weights,
          float *out) {
    int64_t size = layer.head_size, count = seen.size();
    float most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < count; i++) {
        weights[i] = layer.scale * product(query, keys + seen[i] * size, size);
        if (layer.soft_cap < INFINITY) weights[i] = layer.soft_cap * std::tanh(weights[i] / layer.soft_cap);
        most = weights[i] > most ? weights[i] : most;
    }
    float sink = layer.sinks ? get(static_cast<const T *>(layer.sinks)[head]) : -INFINITY;
    most = sink > most ? sink : most;
    for (int64_t i = 0; i < count; i++) weights[i] = exponential(weights[i] - most);
    for (int64_t i = 0; i < count; i++) sum += weights[i];
    if (layer.sinks) sum += exponential(sink - most);
    for (int64_t i = 0; i < size; i++) out[i] = 0;
    for (int64_t i = 0; i < count; i++) {
        const T *value = values + seen[i] * size;
        for (int64_t j = 0; j < size; j++) out[j] += weights[i] * get(value[j]);
    }
    for (int64_t i = 0; i < size; i++) out[i] /= sum;
}

// A head turned by its angles: the first half and the second are the coordinates of points; what lies beyond the pairs stays.
void turn(float *head, const float *cosine, const float *sine, int64_t pairs) {
    for (int64_t i = 0; i < pairs; i++) {
        float first = head[i], second = head[pairs + i];
        head[i] = first * cosine[i] - second * sine[i];
        head[pairs + i] = second * cosine[i] + first * sine[i];
    }
}

// x = sum(x + out(made)); `next` is what follows reads of it, normalised.
template <class T>
void add(const Sublayer &layer, float *x, float *made, const Norm &following, T *next, float *line, int64_t width) {
    normalise<T>(layer.out, made, width);
    for (int64_t i = 0; i < width; i++) x[i] += made[i];
    normalise<T>(layer.sum, x, width);
    std::memcpy(line, x, width * sizeof(float));
    normalise<T>(following, line, width);
    round_to(line, next, width);
}

template <class T>
void step(const Trunk &trunk, const Rows &rows, const T *x, T *out) {
    int64_t width = trunk.width, widest = width, inner = 0, angles = 0, longest = 0;
    for (int64_t i = 0; i < trunk.depth; i++) {
        const Layer &layer = trunk.layers[i];
        int64_t heads = layer.q.outputs + layer.k.outputs + layer.v.outputs;
        widest = heads > widest ? heads : widest;
        inner = layer.up.outputs > inner ? layer.up.outputs : inner;
        inner = layer.q.outputs > inner ? layer.q.outputs : inner;
    }
    for (int64_t i = 0; i < trunk.turn_count; i++) angles = trunk.turns[i].pairs > angles ? trunk.turns[i].pairs : angles;
    std::vector<int64_t> real;  // which rows are no padding
    for (int64_t r = 0; r < rows.count; r++) {
        for (int64_t i = 0; i < width; i++) put(out[r * width + i], 0.0f);
        if (rows.documents[r] < 0) continue;
        real.push_back(r);
        longest = rows.numbers[r] + 1 > longest ? rows.numbers[r] + 1 : longest;
    }
    int64_t count = real.size();
    if (!count) return;

    std::vector<float> stream(count * width), made(count * widest), gates(count * inner), ups(count * inner);
    std::vector<float> cosines(trunk.turn_count * count * angles), sines(cosines.size());
    std::vector<T> read(count * width), gathered(count * inner);  // what products read
    std::vector<std::vector<int32_t>> seen(trunk.view_count * count);

#pragma omp parallel
    {
        int64_t more = longest > widest ? longest : widest;
        std::vector<float> line(more), weights(longest);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < trunk.turn_count * count; i++) {
            const Turn &by = trunk.turns[i / count];
            for (int64_t pair = 0; pair < by.pairs; pair++) {
                float angle = float(rows.positions[real[i % count]]) * by.frequencies[pair];
                cosines[i * angles + pair] = std::cos(angle) * by.grown;
                sines[i * angles + pair] = std::sin(angle) * by.grown;
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < trunk.view_count * count; i++) {
            const View &view = trunk.views[i / count];
            int64_t row = real[i % count], held = rows.numbers[row] < view.size ? rows.numbers[row] + 1 : view.size;
            const int64_t *positions = view.positions + rows.slots[row] * view.size, *documents = view.documents + rows.slots[row] * view.size;
            for (int64_t place = 0; place < held; place++) {
                int64_t distance = rows.positions[row] - positions[place];
                if (documents[place] == rows.documents[row] && distance >= 0 && (view.left < 0 || distance <= view.left))
                    seen[i].push_back(int32_t(place));
            }
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < count; row++) {
            for (int64_t i = 0; i < width; i++) line[i] = stream[row * width + i] = get(x[real[row] * width + i]);
            normalise<T>(trunk.layers[0].attention.in, line.data(), width);
            round_to(line.data(), read.data() + row * width, width);
        }
        for (int64_t number = 0; number < trunk.depth; number++) {
            const Layer &layer = trunk.layers[number];
            int64_t size = layer.head_size, heads = layer.heads, kv = layer.kv_heads, group = heads / kv, each = heads + 2 * kv;
            int64_t places = trunk.views[layer.view].size;
            T *keys = static_cast<T *>(layer.keys), *values = static_cast<T *>(layer.values);

            multiply({&layer.q, &layer.k, &layer.v}, read.data(), count, made.data());
#pragma omp barrier
            if (layer.norms_over_width) {
#pragma omp for schedule(static)
                for (int64_t row = 0; row < count; row++) {
                    normalise<T>(layer.q_norm, made.data() + row * each * size, heads * size);
                    normalise<T>(layer.k_norm, made.data() + (row * each + heads) * size, kv * size);
                }
            }
#pragma omp for schedule(static)
            for (int64_t i = 0; i < count * each; i++) {
                int64_t row = i / each, head = i % each;
                float *vector = made.data() + i * size;
                if (head < heads + kv) {
                    if (!layer.norms_over_width) normalise<T>(head < heads ? layer.q_norm : layer.k_norm, vector, size);
                    if (layer.turn >= 0) {
                        int64_t at = (layer.turn * count + row) * angles;
                        turn(vector, cosines.data() + at, sines.data() + at, trunk.turns[layer.turn].pairs);
                    }
                }
                if (head < heads) {
                    round_to(vector, gathered.data() + (row * heads + head) * size, size);
                } else {
                    int64_t own = (head - heads) % kv, at = (rows.slots[real[row]] * kv + own) * places + rows.numbers[real[row]] % places;
                    round_to(vector, (head < heads + kv ? keys : values) + at * size, size);
                }
            }
#pragma omp for schedule(static)
            for (int64_t i = 0; i < count * heads; i++) {
                int64_t row = i / heads, head = i % heads, from = (rows.slots[real[row]] * kv + head / group) * places * size;
                T *query = gathered.data() + i * size;
                look(layer, head, query, keys + from, values + from, seen[layer.view * count + row], weights.data(), line.data());
                round_to(line.data(), query, size);
            }
            multiply({&layer.o}, gathered.data(), count, made.data());
#pragma omp barrier
#pragma omp for schedule(static)
            for (int64_t row = 0; row < count; row++)
                add(layer.attention, stream.data() + row * width, made.data() + row * width, layer.mlp.in, read.data() + row * width,
                    line.data(), width);

            Share share(layer.up.outputs);
            int64_t outputs = layer.up.outputs;
            if (layer.gate.outputs) multiply(layer.gate, read.data(), count, gates.data(), outputs, share.begin, share.end);
            multiply(layer.up, read.data(), count, ups.data(), outputs, share.begin, share.end);
            for (int64_t row = 0; row < count; row++) {
                int64_t at = row * outputs + share.begin;
                activate(layer, layer.gate.outputs ? gates.data() + at : nullptr, ups.data() + at, share.end - share.begin);
                round_to(ups.data() + at, gathered.data() + at, share.end - share.begin);
            }
#pragma omp barrier
            multiply({&layer.down}, gathered.data(), count, made.data());
#pragma omp barrier
            bool last = number + 1 == trunk.depth;
            const Norm &following = last ? trunk.final : trunk.layers[number + 1].attention.in;
#pragma omp for schedule(static)
            for (int64_t row = 0; row < count; row++)
                add(layer.mlp, stream.data() + row * width, made.data() + row * width, following,
                    last ? out + real[row] * width : read.data() + row * width, line.data(), width);
        }
    }
}

template <class T>
void linear(const Matrix &matrix, int64_t rows, const T *x, float *out) {
#pragma omp parallel
    multiply({&matrix}, x, rows, out);
}

}  // namespace

#define EVERY_TYPE(define) define(float, float) define(half, half)
#define DEFINE(T, name)                                                                                                                  \
    extern "C" void step_##name(const Trunk *trunk, const Rows *rows, const T *x, T *out) { step(*trunk, *rows, x, out); }                \
    extern "C" void linear_##name(const Matrix *matrix, int64_t rows, const T *x, float *out) { linear(*matrix, rows, x, out); }
EVERY_TYPE(DEFINE)
