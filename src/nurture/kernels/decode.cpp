// One step of decoding: a new token for each of a few rows goes through a Llama-shaped decoder, all layers in one call.
//
// Such a step reads every weight once and computes little with it, so what counts is that the weights come in one even
// stream. They are read where they are, 16 rows of a matrix (a strip) at a time, and all numbers of the new tokens are
// held features first, in blocks of 16 tokens: [blocks][features][16]. So a token is a lane of a register, it is
// computed alike beside whatever others, and the strip times a block is one product whatever their number.
//
// Threads share out the strips of each product and the heads of the attention, and wait for each other in between; who
// computes a number changes nothing about it. Results are rounded to the model's format where torch rounds.
#include <omp.h>
#include <sched.h>
#include <atomic>
#include <cmath>
#include <vector>
#include "vectors.h"

namespace {

struct Matrix {  // y = W x + bias, and with a LoRA of this rank + scale B (A x)
    const void *weight, *bias, *a, *b;
    int64_t rank;
    float scale;
};

struct Layer {
    Matrix q, k, v, o, gate, up, down;
    const void *norm, *mlp_norm, *q_norm, *k_norm;
    void *keys, *values;  // [rows or more, kv_heads, capacity, width]
    float epsilon, mlp_epsilon, q_epsilon, k_epsilon, scaling;
    int32_t rotates;
};

struct Step {
    int64_t layers, hidden, heads, kv_heads, width, inner, rows, capacity, threads;
    const Layer* layer;
    const void* norm;
    const int64_t* position;
    const void *x, *cos, *sin;  // [rows, hidden], [rows, width] twice
    void* out;                  // [rows, hidden]
    float epsilon;
};

constexpr int64_t LANES = 16;                     // tokens in a block
constexpr int64_t STRIP = 16;                     // rows of a weight
template <class T> constexpr int64_t PER = 4 / sizeof(T);  // numbers in a word of 32 bits, the unit of products' input

int64_t ceil(int64_t n, int64_t by) { return (n + by - 1) / by; }
// Words of k numbers; in bf16 filled up with zeros to whole tiles.
template <class T>
int64_t words(int64_t k) { return ceil(k / PER<T>, 16) * 16; }

// The threads of a call. They wait in a loop, since they meet two hundred times a step, but not long in an idle one:
// someone else may need the core on which the last of them is to run.
class Team {
    std::atomic<int> arrived{0}, round{0};

public:
    int size = 1;
    void meet() {
        if (size == 1) return;
        int now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round.load(std::memory_order_acquire) == now; spins++)
            if (spins < 300) _mm_pause();
            else sched_yield();
    }
};

struct Thread {
    Team& team;
    int64_t number, size;
    int64_t begin(int64_t n) const { return n * number / size; }
    int64_t end(int64_t n) const { return n * (number + 1) / size; }
};

// --- products -------------------------------------------------------------------------------------------------------

template <class T>
struct Strip {
    const Matrix* matrix;
    const T* w;
    int64_t row, rows;  // rows: up to 16
};

template <class T>
Strip<T> strip(const Matrix& m, int64_t outs, int64_t k, int64_t number) {
    int64_t row = number * STRIP;
    return {&m, (const T*)m.weight + row * k, row, std::min(STRIP, outs - row)};
}

#ifdef __AMX_BF16__
// Up to 16 x 32 numbers of a strip, filled up with zeros.
void edge(bf16 (*to)[32], const Strip<bf16>& s, int64_t k, int64_t i) {
    __mmask32 real = k - i >= 32 ? 0xffffffff : (1u << (k - i)) - 1;
    for (int64_t r = 0; r < STRIP; r++)
        _mm512_store_si512(to[r], _mm512_maskz_loadu_epi16(r < s.rows ? real : 0, s.w + r * k + i));
    asm volatile("" ::: "memory");  // GCC does not know that tiles read memory
}

// STRIPS x BLOCKS tiles of y: [block][strip][16][16]. `ahead`: what will be read next, fetched meanwhile.
template <int STRIPS, int BLOCKS>
void tiles(float* y, const Strip<bf16>* s, int64_t k, const uint32_t* x, const char* const* ahead) {
    alignas(64) bf16 edges[STRIPS][STRIP][32];
    const uint32_t* x1 = x + words<bf16>(k) * LANES;
    _tile_zero(0);
    if (BLOCKS > 1) _tile_zero(1);
    if (STRIPS > 1) _tile_zero(2);
    if (STRIPS > 1 && BLOCKS > 1) _tile_zero(3);
    bool whole = s[0].rows == STRIP && (STRIPS == 1 || s[1].rows == STRIP);
    for (int64_t i = 0; i < k; i += 32) {
        const bf16 *a0 = s[0].w + i, *a1 = s[STRIPS - 1].w + i;
        int64_t stride = 2 * k;
        if (!whole || i + 32 > k) {
            for (int j = 0; j < STRIPS; j++) edge(edges[j], s[j], k, i);
            a0 = edges[0][0], a1 = edges[STRIPS - 1][0], stride = 64;
        }
        if (ahead)
            for (int j = 0; j < STRIPS; j++)
                for (int64_t line = 0; line < 16; line++) _mm_prefetch(ahead[j] + (i / 2 + line) * 64, _MM_HINT_T1);
        int64_t at = i / 2 * LANES;
        _tile_loadd(4, a0, stride);
        _tile_loadd(6, x + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (BLOCKS > 1) {
            _tile_loadd(7, x1 + at, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (STRIPS > 1) {
            _tile_loadd(5, a1, stride);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (STRIPS > 1 && BLOCKS > 1) _tile_dpbf16ps(3, 5, 7);
    }
    constexpr int64_t TILE = STRIP * LANES;
    _tile_stored(0, y, 64);
    if (STRIPS > 1) _tile_stored(2, y + TILE, 64);
    if (BLOCKS > 1) _tile_stored(1, y + 2 * TILE, 64);
    if (STRIPS > 1 && BLOCKS > 1) _tile_stored(3, y + 3 * TILE, 64);
}
#endif

// A number of the weight (in bf16 a pair of neighbours) times that feature of all lanes.
Vector step(Vector sum, const float* w, __m512i x) { return fma(set(*w), _mm512_castsi512_ps(x), sum); }
Vector step(Vector sum, const bf16* w, __m512i x) {
    int32_t pair;
    std::memcpy(&pair, w, 4);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)x);
}

// ROWS rows of a weight times one block.
template <class T, int ROWS>
void lanes(float* y, const T* w, int64_t k, const uint32_t* x, const char* ahead = nullptr) {
    Vector sums[ROWS];
    for (int r = 0; r < ROWS; r++) sums[r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i += PER<T>) {
        __m512i features = _mm512_loadu_si512(x + i / PER<T> * LANES);
        if (ahead) _mm_prefetch(ahead + i / PER<T> * 64, _MM_HINT_T1);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) sums[r] = step(sums[r], w + r * k + i, features);
    }
    for (int r = 0; r < ROWS; r++) store(y + r * LANES, sums[r]);
}

// One or two strips times one or two blocks: y [block][2][16][16].
template <class T>
void multiply(float* y, const Strip<T>* s, int strips, int blocks, int64_t k, const uint32_t* x,
              const char* const* ahead) {
#ifdef __AMX_BF16__
    if constexpr (sizeof(T) == 2)
        if (has_tiles) {
            if (strips == 2 && blocks == 2) tiles<2, 2>(y, s, k, x, ahead);
            else if (strips == 2) tiles<2, 1>(y, s, k, x, ahead);
            else if (blocks == 2) tiles<1, 2>(y, s, k, x, ahead);
            else tiles<1, 1>(y, s, k, x, ahead);
            return;
        }
#endif
    for (int j = 0; j < strips; j++)
        for (int b = 0; b < blocks; b++) {
            float* to = y + (2 * b + j) * STRIP * LANES;
            const uint32_t* from = x + b * words<T>(k) * LANES;
            if (s[j].rows == STRIP) lanes<T, STRIP>(to, s[j].w, k, from, ahead && b == 0 ? ahead[j] : nullptr);
            else
                for (int64_t r = 0; r < s[j].rows; r++) lanes<T, 1>(to + r * LANES, s[j].w + r * k, k, from);
        }
}

// This thread's share of the strips, `grain` of which stay together. at(number) is a strip;
// then(strips, how many, block, y) takes its products with each block, [2][16][16].
template <class T, class At, class Then>
void product(const Thread& thread, int64_t strips, int64_t grain, int64_t blocks, int64_t k, const uint32_t* x, At at,
             Then then) {
    alignas(64) float y[4 * STRIP * LANES];
    int64_t begin = thread.begin(strips / grain) * grain, end = thread.end(strips / grain) * grain;
    for (int64_t i = begin; i < end; i += 2) {
        int many = int(std::min<int64_t>(2, end - i));
        Strip<T> s[2] = {at(i), at(std::min(i + 1, end - 1))};
        const char* ahead[2];
        for (int j = 0; j < 2; j++) ahead[j] = (const char*)at(std::min(i + 2 + j, end - 1)).w;
        for (int64_t b = 0; b < blocks; b += 2) {
            int here = int(std::min<int64_t>(2, blocks - b));
            multiply<T>(y, s, many, here, k, x + b * words<T>(k) * LANES, b == 0 && i + 2 < end ? ahead : nullptr);
            for (int c = 0; c < here; c++) then(s, many, b + c, y + c * 2 * STRIP * LANES);
        }
    }
}

// Features f and f + 1 of one block into the input of a product.
void put(const float*, uint32_t* x, int64_t f, Vector a, Vector b) {
    store((float*)x + f * LANES, a);
    store((float*)x + (f + 1) * LANES, b);
}
void put(const bf16*, uint32_t* x, int64_t f, Vector a, Vector b) {
    __m512i low = _mm512_cvtepu16_epi32(narrow(a)), high = _mm512_cvtepu16_epi32(narrow(b));
    _mm512_storeu_si512(x + f / 2 * LANES, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

const __m512i EVERY_LANE = every(LANES);

// One token's row, `n` words of it, into its lane, and back.
void scatter(uint32_t* lane, const void* row, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        __m512i x = _mm512_maskz_loadu_epi32(first(n - i), (const uint32_t*)row + i);
        _mm512_mask_i32scatter_epi32(lane + i * LANES, first(n - i), EVERY_LANE, x, 4);
    }
}
void gather(void* row, const void* lane, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = first(n - i);
        __m512i x = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), m, EVERY_LANE, (const int*)lane + i * LANES, 4);
        _mm512_mask_storeu_epi32((uint32_t*)row + i, m, x);
    }
}

// --- the step -------------------------------------------------------------------------------------------------------

// Memory of a thread, kept from call to call.
class Memory {
    std::vector<char> bytes;
    size_t used = 0;

public:
    template <class... N>
    void begin(N... numbers) {
        size_t size = (0 + ... + (size_t(numbers) * 4 + 64)) + 64;
        if (bytes.size() < size) bytes.resize(size);
        std::memset(bytes.data(), 0, size);  // lanes without a token, words that fill up a tile
        used = (64 - uintptr_t(bytes.data()) % 64) % 64;
    }
    template <class N>
    N* take(int64_t numbers) {
        auto* p = reinterpret_cast<N*>(bytes.data() + used);
        used += (numbers * 4 + 63) / 64 * 64;
        return p;
    }
};

template <class T>
class Decoder {
    const Step& s;
    Team team;
    int64_t blocks, query, both, rank = 0;
    float *x, *heads;  // what runs through the layers; queries, keys and values
    uint32_t *in, *attended, *act, *small[3];

    template <class N>
    N* at(N* p, int64_t block, int64_t k) const { return p + block * words<T>(k) * LANES; }
    float* lane(float* p, int64_t features, int64_t row) const {
        return p + row / LANES * features * LANES + row % LANES;
    }

    // This thread's share of `in`: x over its root mean square, times the weight.
    void normed(const Thread& thread, const void* weight, float epsilon) {
        const T* w = (const T*)weight;
        for (int64_t b = 0; b < blocks; b++) {
            const float* from = x + b * s.hidden * LANES;
            Vector sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
            for (int64_t f = 0; f < s.hidden; f += 2)
                for (int j = 0; j < 2; j++) {
                    Vector v = load(from + (f + j) * LANES);
                    sums[j] = fma(v, v, sums[j]);
                }
            Vector mean = _mm512_div_ps(_mm512_add_ps(sums[0], sums[1]), set(float(s.hidden)));
            Vector scale = _mm512_div_ps(set(1.f), _mm512_sqrt_ps(_mm512_add_ps(mean, set(epsilon))));
            for (int64_t f = 2 * thread.begin(s.hidden / 2); f < 2 * thread.end(s.hidden / 2); f += 2) {
                float pair[2] = {widen(w[f]), widen(w[f + 1])};
                Vector y[2];
                for (int j = 0; j < 2; j++)
                    y[j] = _mm512_mul_ps(rounded<T>(_mm512_mul_ps(load(from + (f + j) * LANES), scale)), set(pair[j]));
                put((T*)nullptr, at(in, b, s.hidden), f, y[0], y[1]);
            }
        }
    }


    // A x of the LoRA of each matrix, side by side in `small`. All threads meet if there is any.
    void lower(const Thread& thread, int64_t k, const uint32_t* x, std::initializer_list<const Matrix*> of) {
        bool any = false;
        int64_t i = 0;
        for (const Matrix* m : of) {
            uint32_t* to = small[i++];
            if (!m->rank) continue;
            any = true;
            Matrix a = {m->a, nullptr, nullptr, nullptr, 0, 0.f};
            product<T>(thread, ceil(m->rank, STRIP), 1, blocks, k, x,
                       [&](int64_t n) { return strip<T>(a, m->rank, k, n); },
                       [&](const Strip<T>* strips, int many, int64_t b, const float* y) {
                           for (int j = 0; j < many; j++)
                               for (int64_t r = 0; r < strips[j].rows; r += 2)
                                   put((T*)nullptr, at(to, b, m->rank), strips[j].row + r,
                                       load(y + (j * STRIP + r) * LANES), load(y + (j * STRIP + r + 1) * LANES));
                       });
        }
        if (any) team.meet();
    }

    // From the bare product of a strip and a block to the output of the layer.
    void finish(const Strip<T>& strip, int64_t block, float* y, const uint32_t* low) const {
        const Matrix& m = *strip.matrix;
        for (int64_t r = 0; r < strip.rows; r++) {
            Vector v = load(y + r * LANES);
            if (m.bias) v = _mm512_add_ps(v, set(widen(((const T*)m.bias)[strip.row + r])));
            store(y + r * LANES, rounded<T>(v));
        }
        if (!m.rank) return;
        alignas(64) float more[2 * STRIP * LANES];
        Strip<T> b = {&m, (const T*)m.b + strip.row * m.rank, strip.row, strip.rows};
        multiply<T>(more, &b, 1, 1, m.rank, at(low, block, m.rank), nullptr);
        for (int64_t r = 0; r < strip.rows; r++) {
            Vector v = rounded<T>(_mm512_mul_ps(rounded<T>(load(more + r * LANES)), set(m.scale)));
            store(y + r * LANES, rounded<T>(_mm512_add_ps(load(y + r * LANES), v)));
        }
    }

    // x += the layer's output
    void add(const Thread& thread, const Matrix& m, int64_t k, const uint32_t* from) {
        lower(thread, k, from, {&m});
        product<T>(thread, ceil(s.hidden, STRIP), 1, blocks, k, from,
                   [&](int64_t n) { return strip<T>(m, s.hidden, k, n); },
                   [&](const Strip<T>* strips, int many, int64_t b, float* y) {
                       for (int j = 0; j < many; j++) {
                           finish(strips[j], b, y + j * STRIP * LANES, small[0]);
                           for (int64_t r = 0; r < strips[j].rows; r++) {
                               float* to = x + (b * s.hidden + strips[j].row + r) * LANES;
                               store(to, rounded<T>(_mm512_add_ps(load(to), load(y + (j * STRIP + r) * LANES))));
                           }
                       }
                   });
    }

    void project(const Thread& thread, const Layer& layer) {
        lower(thread, s.hidden, in, {&layer.q, &layer.k, &layer.v});
        int64_t key = s.kv_heads * s.width, q_strips = ceil(query, STRIP), k_strips = ceil(key, STRIP);
        product<T>(thread, q_strips + 2 * k_strips, 1, blocks, s.hidden, in,
                   [&](int64_t n) {
                       if (n < q_strips) return strip<T>(layer.q, query, s.hidden, n);
                       n -= q_strips;
                       if (n < k_strips) return strip<T>(layer.k, key, s.hidden, n);
                       return strip<T>(layer.v, key, s.hidden, n - k_strips);
                   },
                   [&](const Strip<T>* strips, int many, int64_t b, float* y) {
                       for (int j = 0; j < many; j++) {
                           int which = strips[j].matrix == &layer.q ? 0 : strips[j].matrix == &layer.k ? 1 : 2;
                           finish(strips[j], b, y + j * STRIP * LANES, small[which]);
                           int64_t feature = (which > 0) * query + (which > 1) * key + strips[j].row;
                           std::memcpy(heads + (b * both + feature) * LANES, y + j * STRIP * LANES,
                                       strips[j].rows * LANES * 4);
                       }
                   });
    }

    void gate(const Thread& thread, const Layer& layer) {
        lower(thread, s.hidden, in, {&layer.gate, &layer.up});
        product<T>(thread, 2 * ceil(s.inner, STRIP), 2, blocks, s.hidden, in,
                   [&](int64_t n) { return strip<T>(n % 2 ? layer.up : layer.gate, s.inner, s.hidden, n / 2); },
                   [&](const Strip<T>* strips, int, int64_t b, float* y) {
                       float* up = y + STRIP * LANES;
                       finish(strips[0], b, y, small[0]);
                       finish(strips[1], b, up, small[1]);
                       for (int64_t r = 0; r < strips[0].rows; r += 2) {
                           Vector out[2];
                           for (int j = 0; j < 2; j++) {
                               Vector g = load(y + (r + j) * LANES);
                               Vector silu = rounded<T>(_mm512_mul_ps(g, sigmoid(g)));
                               out[j] = _mm512_mul_ps(silu, load(up + (r + j) * LANES));
                           }
                           put((T*)nullptr, at(act, b, s.inner), strips[0].row + r, out[0], out[1]);
                       }
                   });
    }

    // --- attention: one task is a row's queries that share a key head ------------------------------------------------

    int64_t place(int64_t row, int64_t kv) const { return (row * s.kv_heads + kv) * s.capacity * s.width; }
    int64_t padded() const { return ceil(s.width, WIDTH) * WIDTH; }

    // One head of one row: its norm and its rotation.
    void head(float* v, const void* weight, float epsilon, int64_t row, bool rotates) const {
        if (weight) {
            Vector squares = _mm512_setzero_ps();
            for (int64_t i = 0; i < s.width; i += WIDTH) squares = fma(load(v + i), load(v + i), squares);
            Vector scale = set(1.f / std::sqrt(sum(squares) / float(s.width) + epsilon));
            for (int64_t i = 0; i < s.width; i += WIDTH) {
                Vector w = load((const T*)weight + i, first(s.width - i));
                store(v + i, rounded<T>(_mm512_mul_ps(rounded<T>(_mm512_mul_ps(load(v + i), scale)), w)));
            }
        }
        if (!rotates) return;
        const T *cos = (const T*)s.cos + row * s.width, *sin = (const T*)s.sin + row * s.width;
        int64_t half = s.width / 2;
        for (int64_t i = 0; i < half; i += WIDTH) {
            __mmask16 m = first(half - i);
            Vector a = load(v + i, m), b = load(v + half + i, m);
            auto turned = [&](Vector x, Vector y, int64_t at) {
                Vector straight = rounded<T>(_mm512_mul_ps(x, load(cos + at, m)));
                return rounded<T>(_mm512_add_ps(straight, rounded<T>(_mm512_mul_ps(y, load(sin + at, m)))));
            };
            Vector c = turned(a, _mm512_sub_ps(_mm512_setzero_ps(), b), i), d = turned(b, a, half + i);
            store(v + i, c, m);
            store(v + half + i, d, m);
        }
    }

    // One token's key or value, to be read soon.
    void fetch(const T* p) const {
        for (int64_t i = 0; i < s.width; i += 64 / sizeof(T)) _mm_prefetch((const char*)(p + i), _MM_HINT_T0);
    }

    // Keys begin to n.
    template <int HEADS>
    void scores(float* to, int64_t stride, const float* q, const T* keys, const T* values, int64_t begin, int64_t n,
                float scaling) const {
        int64_t wide = padded();
        for (int64_t j = begin; j < n; j++) {
            fetch(values + j * s.width);
            Vector sums[HEADS];
            for (int h = 0; h < HEADS; h++) sums[h] = _mm512_setzero_ps();
            for (int64_t i = 0; i < s.width; i += WIDTH) {
                Vector k = load(keys + j * s.width + i, first(s.width - i));
                for (int h = 0; h < HEADS; h++) sums[h] = fma(k, load(q + h * wide + i), sums[h]);
            }
            for (int h = 0; h < HEADS; h++) to[h * stride + j] = sum(sums[h]) * scaling;
        }
    }

    // The same for the first keys, 16 at a time, and all heads of the group: a key is a row of a tile as it lies there.
    // Returns how many keys there were.
    int64_t tiled_scores(float*, int64_t, const float*, const float*, const float*, int64_t, float) const { return 0; }
    int64_t tiled_scores(float* to, int64_t stride, const float* q, const bf16* keys, const bf16* values, int64_t n,
                         float scaling) const {
#ifdef __AMX_BF16__
        constexpr int64_t WIDEST = 256;
        int64_t group = s.heads / s.kv_heads, wide = padded(), whole = n / 16 * 16;
        if (!has_tiles || s.width % 32 || s.width > WIDEST || group > LANES) return 0;
        alignas(64) uint32_t queries[WIDEST / 2 * LANES];
        alignas(64) float found[16 * LANES];
        std::memset(queries, 0, s.width / 2 * LANES * 4);
        for (int64_t h = 0; h < group; h++) {
            bf16 narrowed[WIDEST];
            for (int64_t i = 0; i < s.width; i += WIDTH) store(narrowed + i, load(q + h * wide + i));
            scatter(queries + h, narrowed, s.width / 2);
        }
        for (int64_t j = 0; j < whole; j += 16) {
            for (int64_t k = 0; k < 16; k++) fetch(values + (j + k) * s.width);
            asm volatile("" ::: "memory");  // GCC does not know that loading a tile reads memory
            _tile_zero(0);
            for (int64_t i = 0; i < s.width; i += 32) {
                _tile_loadd(4, keys + j * s.width + i, s.width * 2);
                _tile_loadd(6, queries + i / 2 * LANES, 64);
                _tile_dpbf16ps(0, 4, 6);
            }
            _tile_stored(0, found, 64);
            for (int64_t h = 0; h < group; h++)
                store(to + h * stride + j, _mm512_mul_ps(_mm512_i32gather_ps(EVERY_LANE, found + h, 4), set(scaling)));
        }
        return whole;
#else
        return 0;
#endif
    }

    // out = p values, 32 columns (two registers) at a time
    template <int HEADS>
    void weighted(float* out, const float* p, int64_t stride, const T* values, int64_t n, const T* next) const {
        int64_t wide = padded();
        for (int64_t i = 0; i < s.width; i += 2 * WIDTH) {
            bool two = i + WIDTH < s.width;
            __mmask16 m[2] = {first(s.width - i), two ? first(s.width - i - WIDTH) : __mmask16(0)};
            Vector sums[HEADS][2];
            for (int h = 0; h < HEADS; h++) sums[h][0] = sums[h][1] = _mm512_setzero_ps();
            for (int64_t j = 0; j < n; j++) {
                const T* from = values + j * s.width + i;
                if (i == 0) fetch(next + j * s.width);
                Vector a = load(from, m[0]), b = load(from + WIDTH, m[1]);
                for (int h = 0; h < HEADS; h++) {
                    Vector share = set(p[h * stride + j]);
                    sums[h][0] = fma(share, a, sums[h][0]);
                    sums[h][1] = fma(share, b, sums[h][1]);
                }
            }
            for (int h = 0; h < HEADS; h++) {
                store(out + h * wide + i, sums[h][0]);
                if (two) store(out + h * wide + i + WIDTH, sums[h][1]);
            }
        }
    }

    // Scores to shares that do not yet sum to 1; returns what they sum to.
    static float soften(float* p, int64_t n) {
        Vector top = set(-INFINITY), total = _mm512_setzero_ps();
        for (int64_t i = 0; i < n; i += WIDTH) {
            __mmask16 m = first(n - i);
            top = _mm512_mask_max_ps(top, m, top, load(p + i, m));
        }
        Vector highest = set(most(top));
        for (int64_t i = 0; i < n; i += WIDTH) {
            __mmask16 m = first(n - i);
            Vector e = exp(_mm512_sub_ps(load(p + i, m), highest));
            total = _mm512_mask_add_ps(total, m, total, e);
            store(p + i, e, m);
        }
        return sum(total);
    }

    void attend(const Layer& layer, int64_t row, int64_t kv, int64_t next, float* scratch) {
        int64_t group = s.heads / s.kv_heads, wide = padded(), n = s.position[row] + 1, stride = ceil(n, WIDTH) * WIDTH;
        float *q = scratch, *out = q + group * wide, *p = out + group * wide;
        const float* mine = lane(heads, both, row);
        T *keys = (T*)layer.keys + place(row, kv), *values = (T*)layer.values + place(row, kv);

        auto append = [&](T* to, const float* from) {
            for (int64_t i = 0; i < s.width; i += WIDTH) {
                __mmask16 m = first(s.width - i);
                store(to + (n - 1) * s.width + i, load(from + i, m), m);
            }
        };
        gather(out, mine + (query + kv * s.width) * LANES, s.width);
        head(out, layer.k_norm, layer.k_epsilon, row, layer.rotates);
        append(keys, out);
        gather(out, mine + (query + (s.kv_heads + kv) * s.width) * LANES, s.width);
        append(values, out);

        for (int64_t h = 0; h < group; h++) {
            gather(q + h * wide, mine + (kv * group + h) * s.width * LANES, s.width);
            head(q + h * wide, layer.q_norm, layer.q_epsilon, row, layer.rotates);
        }
        int64_t done = tiled_scores(p, stride, q, keys, values, n, layer.scaling);
        for (int64_t h = 0; h < group;) {
            float *query = q + h * wide, *to = out + h * wide, *share = p + h * stride;
            auto some = [&](auto heads) {
                constexpr int HEADS = decltype(heads)::value;
                scores<HEADS>(share, stride, query, keys, values, done, n, layer.scaling);
                float sums[HEADS];
                for (int i = 0; i < HEADS; i++) sums[i] = soften(share + i * stride, n);
                weighted<HEADS>(to, share, stride, values, n, (T*)layer.keys + next);
                for (int i = 0; i < HEADS; i++)
                    for (int64_t c = 0; c < wide; c += WIDTH)
                        store(to + i * wide + c, _mm512_div_ps(load(to + i * wide + c), set(sums[i])));
                h += HEADS;
            };
            switch (std::min<int64_t>(4, group - h)) {
                case 1: some(std::integral_constant<int, 1>()); break;
                case 2: some(std::integral_constant<int, 2>()); break;
                case 3: some(std::integral_constant<int, 3>()); break;
                default: some(std::integral_constant<int, 4>());
            }
        }
        uint32_t* to = at(attended, row / LANES, query) + row % LANES;
        for (int64_t h = 0; h < group; h++) {
            T* narrowed = (T*)p;
            for (int64_t c = 0; c < wide; c += WIDTH) store(narrowed + c, load(out + h * wide + c));
            scatter(to + (kv * group + h) * s.width / PER<T> * LANES, narrowed, s.width / PER<T>);
        }
    }

    // The first task of a thread's share, where the work of a row is its length. Tasks of a key head lie together, so
    // that threads seldom write to the same line of memory.
    int64_t task(int64_t thread, int64_t threads) const {
        int64_t total = 0, all = 0, n = 0;
        for (int64_t row = 0; row < s.rows; row++) all += s.position[row] + 32;
        all *= s.kv_heads;
        while (n < s.rows * s.kv_heads && total * threads < all * thread) total += s.position[n++ % s.rows] + 32;
        return n;
    }

    int64_t largest() const {
        int64_t longest = 0;
        for (int64_t row = 0; row < s.rows; row++) longest = std::max(longest, s.position[row] + 1);
        return longest;
    }

    void work(const Thread& thread) {
        Tiles configured;
        static thread_local Memory own;
        int64_t group = s.heads / s.kv_heads;
        int64_t room = 2 * group * padded() + group * (ceil(largest(), WIDTH) * WIDTH) + padded();
        own.begin(room);
        float* scratch = own.take<float>(room);
        int64_t begin = task(thread.number, thread.size), end = task(thread.number + 1, thread.size);
        for (int64_t i = 0; i < s.layers; i++) {
            const Layer& layer = s.layer[i];
            normed(thread, layer.norm, layer.epsilon);
            team.meet();
            project(thread, layer);
            team.meet();
            for (int64_t t = begin; t < end; t++) {
                int64_t next = std::min(t + 1, end - 1);
                attend(layer, t % s.rows, t / s.rows, place(next % s.rows, next / s.rows), scratch);
            }
            team.meet();
            add(thread, layer.o, query, attended);
            team.meet();
            normed(thread, layer.mlp_norm, layer.mlp_epsilon);
            team.meet();
            gate(thread, layer);
            team.meet();
            add(thread, layer.down, s.inner, act);
            team.meet();
        }
        normed(thread, s.norm, s.epsilon);
        team.meet();
        for (int64_t row = thread.begin(s.rows); row < thread.end(s.rows); row++)
            gather((T*)s.out + row * s.hidden, at(in, row / LANES, s.hidden) + row % LANES, s.hidden / PER<T>);
    }

public:
    explicit Decoder(const Step& s)
        : s(s), blocks(ceil(s.rows, LANES)), query(s.heads * s.width), both(query + 2 * s.kv_heads * s.width) {
        for (int64_t i = 0; i < s.layers; i++) {
            const Layer& l = s.layer[i];
            for (const Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) rank = std::max(rank, m->rank);
        }
    }

    void run() {
        static thread_local Memory memory;
        int64_t n = blocks * LANES, low = words<T>(rank) * n;
        int64_t sizes[] = {s.hidden * n, both * n, words<T>(s.hidden) * n, words<T>(query) * n, words<T>(s.inner) * n};
        memory.begin(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], low, low, low);
        x = memory.take<float>(sizes[0]), heads = memory.take<float>(sizes[1]);
        in = memory.take<uint32_t>(sizes[2]), attended = memory.take<uint32_t>(sizes[3]);
        act = memory.take<uint32_t>(sizes[4]);
        for (auto& p : small) p = memory.take<uint32_t>(low);
        for (int64_t row = 0; row < s.rows; row++)
            for (int64_t f = 0; f < s.hidden; f += WIDTH) {
                __mmask16 m = first(s.hidden - f);
                Vector v = load((const T*)s.x + row * s.hidden + f, m);
                _mm512_mask_i32scatter_ps(lane(x, s.hidden, row) + f * LANES, m, EVERY_LANE, v, 4);
            }
#pragma omp parallel num_threads(s.threads)
        {
#pragma omp single
            team.size = omp_get_num_threads();
            work({team, omp_get_thread_num(), team.size});
        }
    }
};

// y [rows, outs] fp32 = x [rows, k] weight [outs, k]^T + bias
template <class T>
void thin(float* y, const T* x, const T* weight, const T* bias, int64_t rows, int64_t outs, int64_t k,
          int64_t threads) {
    static thread_local Memory memory;
    int64_t blocks = ceil(rows, LANES);
    memory.begin(blocks * words<T>(k) * LANES);
    auto* in = memory.take<uint32_t>(blocks * words<T>(k) * LANES);
    for (int64_t row = 0; row < rows; row++)
        scatter(in + row / LANES * words<T>(k) * LANES + row % LANES, x + row * k, k / PER<T>);
    Matrix m = {weight, bias, nullptr, nullptr, 0, 0.f};
    Team team;
#pragma omp parallel num_threads(threads)
    {
        Tiles configured;
        Thread thread{team, omp_get_thread_num(), omp_get_num_threads()};
        product<T>(thread, ceil(outs, STRIP), 1, blocks, k, in, [&](int64_t n) { return strip<T>(m, outs, k, n); },
                   [&](const Strip<T>* strips, int many, int64_t b, const float* from) {
                       for (int j = 0; j < many; j++) {
                           __mmask16 real = first(strips[j].rows);
                           Vector more = bias ? load(bias + strips[j].row, real) : _mm512_setzero_ps();
                           for (int64_t l = 0; l < std::min(LANES, rows - b * LANES); l++) {
                               alignas(64) float turned[STRIP];
                               gather(turned, from + j * STRIP * LANES + l, STRIP);
                               float* to = y + (b * LANES + l) * outs + strips[j].row;
                               store(to, _mm512_add_ps(load(turned), more), real);
                           }
                       }
                   });
    }
}

}  // namespace

extern "C" void decode_fp32(const Step* step) { Decoder<float>(*step).run(); }
extern "C" void decode_bf16(const Step* step) { Decoder<bf16>(*step).run(); }

extern "C" void thin_fp32(float* y, void* x, void* weight, void* bias, int64_t rows, int64_t outs, int64_t k,
                          int64_t threads) {
    thin(y, (float*)x, (float*)weight, (float*)bias, rows, outs, k, threads);
}
extern "C" void thin_bf16(float* y, void* x, void* weight, void* bias, int64_t rows, int64_t outs, int64_t k,
                          int64_t threads) {
    thin(y, (bf16*)x, (bf16*)weight, (bf16*)bias, rows, outs, k, threads);
}
