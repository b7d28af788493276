// The thin products of a LoRA (of rank r: tens of rows or columns beside thousands): libraries take as long for one of
// them as for a product many times as large. bf16, sums in fp32.
//
//   forwards:  thin = scale x A^T,  y += thin B^T + bias
//   backwards: g_thin = scale g B,  dx += g_thin A,  dA = g_thin^T x,  dB = g^T thin
//
// Rows of tokens, or columns of gradients, are shared out among the threads, so that who computes a number changes
// nothing about it. `in` and `out` are multiples of 32, r is even.
#include "vectors.h"

namespace {

constexpr int64_t TOKENS = 32;   // at a time
constexpr int64_t COLUMNS = 96;  // of a gradient, at a time; and of an output that the update is added to

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The rank, filled up with zeros to what products take of it: as a sum's length, and as the rows of a matrix. (Tiles take
// what is filled up for nothing, and nothing less.)
int64_t as_sum(int64_t r) { return has_tiles ? up(r, 32) : r; }
int64_t as_rows(int64_t r) { return has_tiles ? up(r, 16) : up(r, 8); }

// A [r][n] or B [n][r] as a right-hand side: its pairs along n, [n / 2][up(r, 16)][2], or along r, [as_sum(r) / 2][n][2].
bf16* along_n(Scratch& s, const bf16* a, int64_t r, int64_t n) {
    bf16* to = s.take<bf16>(n * up(r, 16));
    turn((uint32_t*)to, up(r, 16), (const uint32_t*)a, n / 2, r, n / 2);
    return to;
}
bf16* along_n_turned(Scratch& s, const bf16* b, int64_t r, int64_t n) {
    bf16* to = s.take<bf16>(n * up(r, 16));
    for (int64_t i = 0; i < n; i += 2) zip(to + i * up(r, 16), b + i * r, b + (i + 1) * r, r);
    return to;
}
bf16* along_r(Scratch& s, const bf16* a, int64_t r, int64_t n) {
    bf16* to = s.take<bf16>(as_sum(r) * n);
    for (int64_t k = 0; k < r; k += 2) zip(to + k * n, a + k * n, a + (k + 1) * n, n);
    std::memset(to + r * n, 0, (as_sum(r) - r) * n * 2);
    return to;
}
bf16* along_r_turned(Scratch& s, const bf16* b, int64_t r, int64_t n) {
    bf16* to = s.take<bf16>(as_sum(r) * n);
    turn((uint32_t*)to, n, (const uint32_t*)b, r / 2, n, r / 2);
    std::memset(to + r * n, 0, (as_sum(r) - r) * n * 2);
    return to;
}

// A few tokens' numbers of the width of the rank, [TOKENS][as_sum(r)], behind the tokens and the rank zeros.
struct Thin {
    bf16* data;
    int64_t r, width;
    Thin(Scratch& s, int64_t r) : data(s.take<bf16>(TOKENS * as_sum(r))), r(r), width(as_sum(r)) {}

    // scale times from [tokens][n] times the matrix behind `pairs`, which are along n
    void set_to(const bf16* from, const bf16* pairs, int64_t tokens, int64_t n, float scale, Scratch& s) {
        size_t mark = s.mark();
        float* sums = s.take<float>(TOKENS * up(r, 16));
        if (tokens < TOKENS) {  // what follows the last token is not ours to read
            bf16* filled = s.take<bf16>(TOKENS * n);
            std::memcpy(filled, from, tokens * n * 2);
            std::memset(filled + tokens * n, 0, (TOKENS - tokens) * n * 2);
            from = filled;
        }
        multiply(sums, up(r, 16), from, n, pairs, up(r, 16), TOKENS, up(r, 16), n, false);
        std::memset(data, 0, TOKENS * width * 2);
        for (int64_t t = 0; t < TOKENS; t++)
            for (int64_t k = 0; k < r; k += 16)
                store(data + t * width + k, _mm512_mul_ps(load(sums + t * up(r, 16) + k), set(scale)), first(r - k));
        s.back(mark);
    }
    void read(const bf16* from, int64_t tokens) {
        std::memset(data, 0, TOKENS * width * 2);
        for (int64_t t = 0; t < tokens; t++) std::memcpy(data + t * width, from + t * r, r * 2);
    }
    void write(bf16* to, int64_t tokens) const {
        for (int64_t t = 0; t < tokens; t++) std::memcpy(to + t * r, data + t * width, r * 2);
    }
    // Into columns of to [as_rows(r)][columns], the left-hand side of a gradient.
    void write_turned(bf16* to, int64_t columns) const {
        for (int64_t k = 0; k < as_rows(r); k++)
            for (int64_t t = 0; t < TOKENS; t++) to[k * columns + t] = k < r ? data[t * width + k] : bf16{0};
    }
    // y [tokens][n] += this times the matrix behind `pairs`, which are along r, and the bias if there is one
    void add_to(bf16* y, const bf16* pairs, const bf16* bias, int64_t tokens, int64_t n) const {
        alignas(64) float sums[TOKENS * COLUMNS];
        for (int64_t i = 0; i < n; i += COLUMNS) {
            int64_t columns = std::min(COLUMNS, n - i);
            multiply(sums, COLUMNS, data, width, pairs + 2 * i, n, TOKENS, columns, width, false);
            for (int64_t j = 0; j < columns; j += 16) {
                Vector all = bias ? load(bias + i + j) : _mm512_setzero_ps();
                for (int64_t t = 0; t < tokens; t++) {
                    bf16* to = y + t * n + i + j;
                    store(to, _mm512_add_ps(load(to), _mm512_add_ps(load(sums + t * COLUMNS + j), all)));
                }
            }
        }
    }
};

// Two rows in pairs, a0 b0 a1 b1 ..., but of every 32 columns first the pairs of 0-3, 8-11, 16-19 and 24-27, then the
// others: so the hardware does it at once.
void shuffle(bf16* to, const bf16* a, const bf16* b, int64_t n) {
    for (int64_t i = 0; i < n; i += 32) {
        __m512i x = _mm512_loadu_si512(a + i), y = b ? _mm512_loadu_si512(b + i) : _mm512_setzero_si512();
        _mm512_storeu_si512(to + 2 * i, _mm512_unpacklo_epi16(x, y));
        _mm512_storeu_si512(to + 2 * i + 32, _mm512_unpackhi_epi16(x, y));
    }
}
void put_back(float* row, int64_t n) {
    const __m512i begin = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i end = _mm512_set_epi32(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8);
    for (int64_t i = 0; i < n; i += 32) {
        Vector x = load(row + i), y = load(row + i + 16);
        store(row + i, _mm512_permutex2var_ps(x, begin, y));
        store(row + i + 16, _mm512_permutex2var_ps(x, end, y));
    }
}

// thin^T from, for the columns of `from` [tokens][n] that begin at `column`: into d [r][n], or turned into d [n][r].
// `thin` is [as_rows(r)][up(tokens, TOKENS)].
void gradient(bf16* d, const bf16* thin, const bf16* from, int64_t column, int64_t tokens, int64_t n, int64_t r,
              bool turned, Scratch& s) {
    int64_t rows = as_rows(r), columns = std::min(COLUMNS, n - column), padded = up(tokens, TOKENS);
    float* sums = s.take<float>(rows * COLUMNS);
    alignas(64) bf16 pairs[TOKENS * COLUMNS];
    for (int64_t t = 0; t < tokens; t += TOKENS) {
        int64_t count = std::min(TOKENS, tokens - t);
        for (int64_t i = 0; i < count; i += 2) {
            const bf16* row = from + (t + i) * n + column;
            shuffle(pairs + i * COLUMNS, row, i + 1 < count ? row + n : nullptr, columns);
        }
        for (int64_t i = up(count, 2); i < TOKENS; i++) std::memset(pairs + i * COLUMNS, 0, COLUMNS * 2);
        multiply(sums, COLUMNS, thin + t, padded, pairs, COLUMNS, rows, columns, TOKENS, t > 0);
    }
    for (int64_t k = 0; k < r; k++) put_back(sums + k * COLUMNS, columns);
    if (!turned)
        for (int64_t k = 0; k < r; k++)
            for (int64_t i = 0; i < columns; i += 16) store(d + k * n + column + i, load(sums + k * COLUMNS + i));
    else
        for (int64_t i = 0; i < columns; i++)
            for (int64_t k = 0; k < r; k += 16) {
                __mmask16 m = first(r - k);
                const float* at = sums + k * COLUMNS + i;
                store(d + (column + i) * r + k, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), m, every(COLUMNS), at, 4), m);
            }
}

}  // namespace

extern "C" void low_rank_bf16(bf16* y, bf16* thin, const bf16* x, const bf16* a, const bf16* b, const bf16* bias,
                              int64_t tokens, int64_t in, int64_t out, int64_t r, float scale, int64_t threads) {
    static thread_local Scratch shared;
    shared.begin(2 * (in * up(r, 16) + out * as_sum(r)) + 256);
    const bf16 *down = along_n(shared, a, r, in), *back_up = along_r_turned(shared, b, r, out);
#pragma omp parallel num_threads(threads)
    {
        Tiles tiles;
        static thread_local Scratch own;
        own.begin(TOKENS * (2 * as_sum(r) + 4 * up(r, 16) + 2 * in) + 512);
        Thin some(own, r);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t += TOKENS) {
            int64_t count = std::min(TOKENS, tokens - t);
            some.set_to(x + t * in, down, count, in, scale, own);
            some.write(thin + t * r, count);
            some.add_to(y + t * out, back_up, bias, count, out);
        }
    }
}

// dx, da and db may be null.
extern "C" void low_rank_backward_bf16(bf16* dx, bf16* da, bf16* db, const bf16* g, const bf16* x, const bf16* thin,
                                       const bf16* a, const bf16* b, int64_t tokens, int64_t in, int64_t out, int64_t r,
                                       float scale, int64_t threads) {
    int64_t padded = up(tokens, TOKENS);
    static thread_local Scratch shared;
    shared.begin(2 * (up(r, 16) * out + as_sum(r) * in + 2 * as_rows(r) * padded) + 512);
    const bf16 *down = along_n_turned(shared, b, r, out), *back_up = dx ? along_r(shared, a, r, in) : nullptr;
    bf16 *g_thin = shared.take<bf16>(as_rows(r) * padded), *x_thin = shared.take<bf16>(as_rows(r) * padded);
    int64_t of_a = da ? up(in, COLUMNS) / COLUMNS : 0, of_b = db ? up(out, COLUMNS) / COLUMNS : 0;
#pragma omp parallel num_threads(threads)
    {
        Tiles tiles;
        static thread_local Scratch own;
        own.begin(TOKENS * (2 * as_sum(r) + 4 * up(r, 16) + 2 * out) + 4 * as_rows(r) * COLUMNS + 512);
        Thin some(own, r);
        size_t mark = own.mark();
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t += TOKENS) {
            int64_t count = std::min(TOKENS, tokens - t);
            if (db) {
                some.read(thin + t * r, count);
                some.write_turned(x_thin + t, padded);
            }
            some.set_to(g + t * out, down, count, out, scale, own);
            some.write_turned(g_thin + t, padded);
            if (dx) some.add_to(dx + t * in, back_up, nullptr, count, in);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < of_a + of_b; i++) {
            own.back(mark);
            if (i < of_a) gradient(da, g_thin, x, COLUMNS * i, tokens, in, r, false, own);
            else gradient(db, x_thin, g, COLUMNS * (i - of_a), tokens, out, r, true, own);
        }
    }
}
