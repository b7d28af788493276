// Norms, gates and rotations in one pass over memory each, forwards and backwards; bf16.
#include <cmath>
#include <vector>
#include "vectors.h"

namespace {

constexpr int64_t WORTH = 1 << 14;  // fewer numbers are not worth waking another thread

Vector product(Vector a, Vector b) { return rounded<bf16>(_mm512_mul_ps(a, b)); }

}  // namespace

// y = weight * n, n = x / sqrt(mean(x^2) + eps), rounded before the weight as the models' own code does.
extern "C" void rms_norm_bf16(bf16* y, float* scale, const bf16* x, const bf16* weight, int64_t rows, int64_t n, float eps,
                              int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * n > WORTH)
    for (int64_t r = 0; r < rows; r++) {
        const bf16* from = x + r * n;
        Vector squares = _mm512_setzero_ps();
        for (int64_t i = 0; i < n; i += WIDTH) {
            Vector v = load(from + i, first(n - i));
            squares = fma(v, v, squares);
        }
        scale[r] = 1.f / std::sqrt(sum(squares) / float(n) + eps);
        Vector s = set(scale[r]);
        for (int64_t i = 0; i < n; i += WIDTH) {
            __mmask16 m = first(n - i);
            store(y + r * n + i, _mm512_mul_ps(product(load(from + i, m), s), load(weight + i, m)), m);
        }
    }
}

// dx = (dy weight - n mean(dy weight n)) / sqrt(mean(x^2) + eps); dweight = sum of dy n, if it is wanted.
extern "C" void rms_norm_backward_bf16(bf16* dx, bf16* dweight, const bf16* dy, const bf16* x, const bf16* weight,
                                       const float* scale, int64_t rows, int64_t n, int64_t threads) {
    int64_t padded = (n + WIDTH - 1) / WIDTH * WIDTH;
    std::vector<float> sums(dweight ? threads * padded : 0);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < threads; t++) {
        float* own = dweight ? sums.data() + t * padded : nullptr;
        for (int64_t r = rows * t / threads; r < rows * (t + 1) / threads; r++) {
            const bf16 *from = x + r * n, *grad = dy + r * n;
            Vector s = set(scale[r]), dot = _mm512_setzero_ps();
            for (int64_t i = 0; i < n; i += WIDTH) {
                __mmask16 m = first(n - i);
                Vector gn = _mm512_mul_ps(load(grad + i, m), _mm512_mul_ps(load(from + i, m), s));
                dot = fma(gn, load(weight + i, m), dot);
                if (own) store(own + i, _mm512_add_ps(load(own + i), gn));
            }
            Vector mean = set(-sum(dot) / float(n));
            for (int64_t i = 0; i < n; i += WIDTH) {
                __mmask16 m = first(n - i);
                Vector gw = _mm512_mul_ps(load(grad + i, m), load(weight + i, m));
                Vector d = fma(_mm512_mul_ps(load(from + i, m), s), mean, gw);
                store(dx + r * n + i, _mm512_mul_ps(d, s), m);
            }
        }
    }
    if (dweight)
        for (int64_t i = 0; i < n; i += WIDTH) {
            Vector all = load(sums.data() + i);
            for (int64_t t = 1; t < threads; t++) all = _mm512_add_ps(all, load(sums.data() + t * padded + i));
            store(dweight + i, all, first(n - i));
        }
}

// y = silu(gate) up
extern "C" void silu_gate_bf16(bf16* y, const bf16* gate, const bf16* up, int64_t n, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (n > WORTH)
    for (int64_t i = 0; i < n; i += WIDTH) {
        __mmask16 m = first(n - i);
        Vector g = load(gate + i, m);
        store(y + i, _mm512_mul_ps(_mm512_mul_ps(g, sigmoid(g)), load(up + i, m)), m);
    }
}

extern "C" void silu_gate_backward_bf16(bf16* dgate, bf16* dup, const bf16* dy, const bf16* gate, const bf16* up, int64_t n,
                                        int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (n > WORTH)
    for (int64_t i = 0; i < n; i += WIDTH) {
        __mmask16 m = first(n - i);
        Vector g = load(gate + i, m), d = load(dy + i, m), s = sigmoid(g);
        Vector silu = _mm512_mul_ps(g, s);
        store(dup + i, _mm512_mul_ps(d, silu), m);
        Vector slope = fma(silu, _mm512_sub_ps(set(1.f), s), s);
        store(dgate + i, _mm512_mul_ps(_mm512_mul_ps(d, load(up + i, m)), slope), m);
    }
}

// Every head of every token turned by its position: (a, b) -> (a cos - b sin, b cos + a sin) for the two halves a and b
// of its width, rounded as torch's separate operations do; or back, which is also the gradient. x has strides of its
// own, y is [tokens][heads][width].
extern "C" void rotate_bf16(bf16* y, const bf16* x, const bf16* cos, const bf16* sin, int64_t tokens, int64_t heads,
                            int64_t width, int64_t token_stride, int64_t head_stride, int64_t back, int64_t threads) {
    int64_t half = width / 2;
#pragma omp parallel for num_threads(threads) schedule(static) if (tokens * heads * width > WORTH)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < half; i += WIDTH) {
            const bf16 *c = cos + t * width + i, *s = sin + t * width + i;
            Vector ca = load(c), cb = load(c + half), sa = _mm512_sub_ps(_mm512_setzero_ps(), load(s)), sb = load(s + half);
            if (back) std::swap(sa, sb);
            for (int64_t h = 0; h < heads; h++) {
                const bf16* from = x + t * token_stride + h * head_stride + i;
                bf16* to = y + (t * heads + h) * width + i;
                Vector a = load(from), b = load(from + half);
                store(to, _mm512_add_ps(product(a, ca), product(b, sa)));
                store(to + half, _mm512_add_ps(product(b, cb), product(a, sb)));
            }
        }
}
