// From the logits of each row to one token of it: the likeliest, or one drawn by inverting the distribution's running sum.
#include <cmath>
#include <vector>
#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 256;  // tokens whose probabilities are summed at once

float highest(const float* row, int64_t n) {
    Vector top = set(-INFINITY);
    for (int64_t i = 0; i < n; i += WIDTH) top = _mm512_mask_max_ps(top, first(n - i), top, load(row + i, first(n - i)));
    return most(top);
}

Vector share(const float* row, int64_t i, int64_t n, Vector top) {
    return _mm512_maskz_mov_ps(first(n - i), exp(_mm512_sub_ps(load(row + i, first(n - i)), top)));
}

double mass(const float* row, int64_t begin, int64_t n, Vector top) {
    Vector total = _mm512_setzero_ps();
    for (int64_t i = begin; i < std::min(begin + BLOCK, n); i += WIDTH) total = _mm512_add_ps(total, share(row, i, n, top));
    return sum(total);
}

// The first place at which the running sum of n masses exceeds `reach`, or the last that has any, since rounding may put
// `reach` at the total itself; `reach` becomes what is left of it there.
template <class T>
int64_t invert(const T* masses, int64_t n, double& reach) {
    int64_t last = 0;
    double running = 0, before = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(masses[i] > 0)) continue;
        last = i, before = running;
        running += masses[i];
        if (running > reach) break;
    }
    reach -= before;
    return last;
}

}  // namespace

extern "C" void greedy_fp32(int64_t* token, float* logp, const float* logits, int64_t rows, int64_t n, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows > 1)
    for (int64_t r = 0; r < rows; r++) {
        const float* row = logits + r * n;
        float best = highest(row, n);
        double total = 0;
        for (int64_t i = 0; i < n; i += BLOCK) total += mass(row, i, n, set(best));
        int64_t i = 0;
        while (i + 1 < n && row[i] != best) i++;
        token[r] = i;
        logp[r] = float(-std::log(total));
    }
}

// `uniform` [rows] in [0, 1): the share of the distribution that lies before the token.
extern "C" void draw_fp32(int64_t* token, float* logp, const float* logits, const double* uniform, int64_t rows, int64_t n,
                          int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows > 1)
    for (int64_t r = 0; r < rows; r++) {
        static thread_local std::vector<double> masses;
        masses.clear();
        const float* row = logits + r * n;
        float best = highest(row, n);
        double total = 0;
        for (int64_t i = 0; i < n; i += BLOCK) {
            masses.push_back(mass(row, i, n, set(best)));
            total += masses.back();
        }
        double reach = uniform[r] * total;
        int64_t begin = BLOCK * invert(masses.data(), int64_t(masses.size()), reach);
        alignas(64) float shares[BLOCK];
        for (int64_t i = 0; i < BLOCK; i += WIDTH)
            store(shares + i, begin + i < n ? share(row, begin + i, n, set(best)) : _mm512_setzero_ps());
        token[r] = begin + invert(shares, BLOCK, reach);
        logp[r] = row[token[r]] - best - float(std::log(total));
    }
}
