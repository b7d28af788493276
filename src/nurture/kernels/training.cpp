// What a step of training does to large tensors besides their products: turning one for the gradient of a weight, the
// output head's softmax, the norm of all gradients, AdamW.
#include <cmath>
#include <vector>
#include "vectors.h"

namespace {

constexpr int64_t TURNED = 32;      // rows and columns that are turned at a time
constexpr int64_t SUMMED = 1 << 14;  // numbers whose squares are summed in fp32; such sums are added in double

// [rows][columns] -> [columns][rows], at the block of up to 32 x 32 at (r, c).
void turn_block(bf16* to, const bf16* from, int64_t stride, int64_t rows, int64_t columns, int64_t r, int64_t c) {
    int64_t m = std::min(TURNED, rows - r), n = std::min(TURNED, columns - c);
    alignas(64) uint32_t pairs[TURNED / 2][TURNED];  // [two rows][column]
    for (int64_t i = 0; i < m; i += 2) {
        const bf16* row = from + (r + i) * stride + c;
        zip((bf16*)pairs[i / 2], row, i + 1 < m ? row + stride : nullptr, n);
    }
    const __m512i index = every(TURNED);
    __mmask32 wanted = m == TURNED ? 0xffffffff : (1u << m) - 1;
    for (int64_t j = 0; j < n; j++)
        _mm512_mask_storeu_epi16(to + (c + j) * rows + r, wanted, _mm512_i32gather_epi32(index, &pairs[0][j], 4));
}

// One row of logits: their log-sum-exp and what else is asked of them; with `learn` they become (p - target) factor.
void softmax_row(bf16* row, int64_t n, int64_t target, float factor, float* lse, float* logp, float* entropy, float* hit,
                 bool learn) {
    Vector f = set(factor), top = set(-INFINITY);
    for (int64_t i = 0; i < n; i += WIDTH) {
        __mmask16 m = first(n - i);
        top = _mm512_mask_max_ps(top, m, top, _mm512_mul_ps(load(row + i, m), f));
    }
    float highest = most(top);
    float chosen = widen(row[target]) * factor;
    Vector shift = set(-highest), total = _mm512_setzero_ps(), spread = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += WIDTH) {
        __mmask16 m = first(n - i);
        Vector below = fma(load(row + i, m), f, shift), e = exp(below);
        total = _mm512_mask_add_ps(total, m, total, e);
        if (entropy) spread = _mm512_mask3_fmadd_ps(e, below, spread, m);
    }
    float whole = sum(total), log_total = std::log(whole);
    *lse = highest + log_total;
    *logp = chosen - *lse;
    if (entropy) *entropy = log_total - sum(spread) / whole;
    if (hit) *hit = chosen >= highest;
    if (!learn) return;
    Vector back = set(factor / whole);
    for (int64_t i = 0; i < n; i += WIDTH) {
        __mmask16 m = first(n - i);
        store(row + i, _mm512_mul_ps(exp(fma(load(row + i, m), f, shift)), back), m);
    }
    float d = (std::exp(chosen - highest) / whole - 1.f) * factor;
    store(row + target, set(d), first(1));
}

}  // namespace

extern "C" void turn_bf16(bf16* to, const bf16* from, int64_t stride, int64_t rows, int64_t columns, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c = 0; c < columns; c += TURNED)
        for (int64_t r = 0; r < rows; r += TURNED) turn_block(to, from, stride, rows, columns, r, c);
}

// logits [rows, n] times `factor`: `entropy` and `hit` may be missing.
extern "C" void softmax_bf16(bf16* logits, const int64_t* target, float* lse, float* logp, float* entropy, float* hit,
                             int64_t rows, int64_t n, int64_t learn, float factor, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        softmax_row(logits + r * n, n, target[r], factor, lse + r, logp + r, entropy ? entropy + r : nullptr,
                    hit ? hit + r : nullptr, learn);
}

extern "C" void squares_bf16(const bf16* x, double* sums, int64_t n, int64_t threads) {
    int64_t parts = (n + SUMMED - 1) / SUMMED;
    std::vector<float> part(parts);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        Vector a = _mm512_setzero_ps(), b = _mm512_setzero_ps();
        int64_t stop = std::min(n, (p + 1) * SUMMED);
        for (int64_t i = p * SUMMED; i < stop; i += 2 * WIDTH) {
            Vector v = load(x + i, first(stop - i));
            a = fma(v, v, a);
            if (stop - i > WIDTH) {
                Vector w = load(x + i + WIDTH, first(stop - i - WIDTH));
                b = fma(w, w, b);
            }
        }
        part[p] = sum(_mm512_add_ps(a, b));
    }
    *sums = 0;
    for (float p : part) *sums += p;
}

// One update of fp32 master weights and averages by a bf16 gradient times `scale`; `weight` is the master, rounded.
struct Update {
    float rate, decay, new1, old2, new2, eps, correction1, correction2, scale;  // new, old: shares in the averages
};

extern "C" void adamw_bf16(bf16* weight, float* master, float* average, float* squares, const bf16* gradient,
                           const Update* u, int64_t n, int64_t threads) {
    Vector keep = set(1.f - u->rate * u->decay), step = set(-u->rate / u->correction1), eps = set(u->eps);
    Vector root = set(1.f / std::sqrt(u->correction2)), scale = set(u->scale);
    Vector new1 = set(u->new1), old2 = set(u->old2), new2 = set(u->new2);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += WIDTH) {
        __mmask16 m = first(n - i);
        Vector g = _mm512_mul_ps(load(gradient + i, m), scale), a = load(average + i, m), w = load(master + i, m);
        a = fma(_mm512_sub_ps(g, a), new1, a);
        Vector s = fma(_mm512_mul_ps(g, g), new2, _mm512_mul_ps(load(squares + i, m), old2));
        Vector below = fma(_mm512_sqrt_ps(s), root, eps);
        w = fma(_mm512_div_ps(a, below), step, _mm512_mul_ps(w, keep));
        store(average + i, a, m);
        store(squares + i, s, m);
        store(master + i, w, m);
        store(weight + i, w, m);
    }
}
