// Sixteen numbers at a time: loading, storing, exp, and products of small bf16 matrices.
// Memory is fp32 or bf16; arithmetic is fp32 always.
#pragma once
#include <immintrin.h>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

struct bf16 {
    uint16_t bits;
};

using Vector = __m512;  // 16 x fp32
constexpr int64_t WIDTH = 16;

inline __mmask16 first(int64_t n) { return n >= WIDTH ? 0xffff : __mmask16((1u << n) - 1); }

inline Vector load(const float* p) { return _mm512_loadu_ps(p); }
inline Vector load(const float* p, __mmask16 m) { return _mm512_maskz_loadu_ps(m, p); }
inline Vector widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline Vector load(const bf16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
inline Vector load(const bf16* p, __mmask16 m) { return widen(_mm256_maskz_loadu_epi16(m, p)); }

inline __m256i narrow(Vector x) { return (__m256i)_mm512_cvtneps_pbh(x); }  // to nearest, ties to even
inline void store(float* p, Vector x) { _mm512_storeu_ps(p, x); }
inline void store(float* p, Vector x, __mmask16 m) { _mm512_mask_storeu_ps(p, m, x); }
inline void store(bf16* p, Vector x) { _mm256_storeu_si256((__m256i*)p, narrow(x)); }
inline void store(bf16* p, Vector x, __mmask16 m) { _mm256_mask_storeu_epi16(p, m, narrow(x)); }

inline float widen(float x) { return x; }
inline float widen(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}

// 0, stride, 2 stride ... 15 stride: the index of one number of each of 16 rows.
inline __m512i every(int64_t stride) {
    return _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                              _mm512_set1_epi32(int(stride)));
}

inline Vector set(float x) { return _mm512_set1_ps(x); }
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline float sum(Vector x) { return _mm512_reduce_add_ps(x); }
inline float most(Vector x) { return _mm512_reduce_max_ps(x); }

template <class T>
inline Vector rounded(Vector x);  // as memory of this type would hold it
template <>
inline Vector rounded<float>(Vector x) { return x; }
template <>
inline Vector rounded<bf16>(Vector x) { return widen(narrow(x)); }

// exp to about 1e-7, by 2^n times a polynomial; underflows to 0 and overflows to infinity. What is no number stays none
// (of two operands, min and max hand on the second).
inline Vector exp(Vector x) {
    x = _mm512_min_ps(set(89.f), _mm512_max_ps(set(-104.f), x));
    Vector n = _mm512_roundscale_ps(_mm512_mul_ps(x, set(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    Vector r = fma(n, set(-0.693359375f), x);
    r = fma(n, set(2.12194440e-4f), r);
    Vector p = set(1.9875691500e-4f);
    p = fma(p, r, set(1.3981999507e-3f));
    p = fma(p, r, set(8.3334519073e-3f));
    p = fma(p, r, set(4.1665795894e-2f));
    p = fma(p, r, set(1.6666665459e-1f));
    p = fma(p, r, set(5.0000001201e-1f));
    p = fma(_mm512_mul_ps(r, r), p, _mm512_add_ps(r, set(1.f)));
    return _mm512_scalef_ps(p, n);
}

inline Vector sigmoid(Vector x) {
    return _mm512_div_ps(set(1.f), _mm512_add_ps(set(1.f), exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// Words of 32 bits, [rows] of `from` `stride` words apart, become [words][columns] of `to`; columns is a multiple of 16.
inline void turn(uint32_t* to, int64_t columns, const uint32_t* from, int64_t stride, int64_t rows, int64_t words) {
    __m512i index = every(stride);
    for (int64_t r = 0; r < columns; r += 16) {
        __mmask16 real = r < rows ? first(rows - r) : 0;
        for (int64_t w = 0; w < words; w++)
            _mm512_storeu_si512(to + w * columns + r, _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), real, index,
                                                                                 from + r * stride + w, 4));
    }
}

// Two rows, number by number: a0 b0 a1 b1 ... with zeros up to a multiple of 16 numbers of each. Without b: its zeros.
inline void zip(bf16* to, const bf16* a, const bf16* b, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = first(n - i);
        __m512i x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, a + i));
        __m512i y = b ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, b + i)) : _mm512_setzero_si512();
        _mm512_storeu_si512(to + 2 * i, _mm512_or_si512(x, _mm512_slli_epi32(y, 16)));
    }
}

// --- products of small matrices -------------------------------------------------------------------------------------
//
// C [m, n] fp32 (+)= A [m, k] bf16, row by row, times B [k, n] bf16 *in pairs*: [k / 2][n][2], since the hardware
// multiplies two neighbours of the sum at once. m is a multiple of 16, n of 16, k of 32.

extern bool has_tiles;  // AMX, and the kernel's leave to use it

struct Config {
    alignas(64) uint8_t bytes[64];
};
// Eight tiles of 16 x 64 bytes. (A constant: GCC takes a configuration for 8 bytes long, and may drop what is written to
// the rest of a local one.)
constexpr Config CONFIG = {{1,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  64, 0,  64, 0,  64, 0,
                            64, 0,  64, 0,  64, 0,  64, 0,  64, 0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                            0,  0,  0,  0,  16, 16, 16, 16, 16, 16, 16, 16, 0,  0,  0,  0,  0,  0,  0,  0}};

// This thread's matrix tiles as above; what they were before (another library's) comes back at the end.
class Tiles {
    Config before;

public:
    Tiles() {
#ifdef __AMX_BF16__
        if (!has_tiles) return;
        _tile_storeconfig(&before);
        asm volatile("" ::: "memory");
        _tile_loadconfig(&CONFIG);
#endif
    }
    ~Tiles() {
#ifdef __AMX_BF16__
        if (!has_tiles) return;
        if (before.bytes[0])
            _tile_loadconfig(&before);
        else
            _tile_release();
#endif
    }
    Tiles(const Tiles&) = delete;
};

#ifdef __AMX_BF16__
template <int ROWS, int COLUMNS>  // in tiles of 16, 1 or 2
inline void tiled(float* c, int64_t ldc, const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int64_t k, bool add) {
    float* c1 = c + 16 * ldc;
    asm volatile("" ::: "memory");  // GCC does not know that loading a tile reads memory
    if (add) {
        _tile_loadd(0, c, ldc * 4);
        if (COLUMNS > 1) _tile_loadd(1, c + 16, ldc * 4);
        if (ROWS > 1) _tile_loadd(2, c1, ldc * 4);
        if (ROWS > 1 && COLUMNS > 1) _tile_loadd(3, c1 + 16, ldc * 4);
    } else {
        _tile_zero(0);
        if (COLUMNS > 1) _tile_zero(1);
        if (ROWS > 1) _tile_zero(2);
        if (ROWS > 1 && COLUMNS > 1) _tile_zero(3);
    }
    for (int64_t i = 0; i < k; i += 32) {
        const bf16* pair = b + i * ldb;
        _tile_loadd(4, a + i, lda * 2);
        _tile_loadd(6, pair, ldb * 4);
        _tile_dpbf16ps(0, 4, 6);
        if (COLUMNS > 1) {
            _tile_loadd(7, pair + 32, ldb * 4);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (ROWS > 1) {
            _tile_loadd(5, a + 16 * lda + i, lda * 2);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (ROWS > 1 && COLUMNS > 1) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ldc * 4);
    if (COLUMNS > 1) _tile_stored(1, c + 16, ldc * 4);
    if (ROWS > 1) _tile_stored(2, c1, ldc * 4);
    if (ROWS > 1 && COLUMNS > 1) _tile_stored(3, c1 + 16, ldc * 4);
}
#endif

// The same without tiles: 8 rows of A, a pair of numbers of each spread over a register, times 16 or 32 columns of B.
template <int COLUMNS>
inline void spread(float* c, int64_t ldc, const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int64_t k, bool add) {
    Vector acc[8][COLUMNS];
    for (int r = 0; r < 8; r++)
        for (int j = 0; j < COLUMNS; j++) acc[r][j] = add ? load(c + r * ldc + 16 * j) : _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i += 2) {
        __m512bh columns[COLUMNS];
        for (int j = 0; j < COLUMNS; j++) columns[j] = (__m512bh)_mm512_loadu_si512(b + i * ldb + 32 * j);
        for (int r = 0; r < 8; r++) {
            int32_t pair;
            std::memcpy(&pair, a + r * lda + i, 4);
            __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
            for (int j = 0; j < COLUMNS; j++) acc[r][j] = _mm512_dpbf16_ps(acc[r][j], x, columns[j]);
        }
    }
    for (int r = 0; r < 8; r++)
        for (int j = 0; j < COLUMNS; j++) store(c + r * ldc + 16 * j, acc[r][j]);
}

// `ldb`: columns of B in memory, so that its pairs of rows lie 2 * ldb numbers apart.
inline void multiply(float* c, int64_t ldc, const bf16* a, int64_t lda, const bf16* b, int64_t ldb,
                     int64_t m, int64_t n, int64_t k, bool add) {
#ifdef __AMX_BF16__
    if (has_tiles) {
        for (int64_t j = 0; j < n; j += 32)
            for (int64_t i = 0; i < m; i += 32) {
                float* to = c + i * ldc + j;
                const bf16 *left = a + i * lda, *right = b + 2 * j;
                bool wide = n - j > 16, tall = m - i > 16;
                if (wide && tall) tiled<2, 2>(to, ldc, left, lda, right, ldb, k, add);
                else if (wide) tiled<1, 2>(to, ldc, left, lda, right, ldb, k, add);
                else if (tall) tiled<2, 1>(to, ldc, left, lda, right, ldb, k, add);
                else tiled<1, 1>(to, ldc, left, lda, right, ldb, k, add);
            }
        return;
    }
#endif
    for (int64_t j = 0; j < n; j += 32)
        for (int64_t i = 0; i < m; i += 8) {
            if (n - j > 16) spread<2>(c + i * ldc + j, ldc, a + i * lda, lda, b + 2 * j, ldb, k, add);
            else spread<1>(c + i * ldc + j, ldc, a + i * lda, lda, b + 2 * j, ldb, k, add);
        }
}

// Memory that a thread keeps from call to call.
class Scratch {
    std::vector<char> memory;
    size_t used = 0;

public:
    void begin(size_t bytes) {
        if (memory.size() < bytes) memory.resize(bytes);
        used = 0;
    }
    template <class T>
    T* take(int64_t n) {
        auto base = reinterpret_cast<uintptr_t>(memory.data()), address = (base + used + 63) / 64 * 64;
        used = address - base + n * sizeof(T);
        return reinterpret_cast<T*>(address);
    }
    size_t mark() const { return used; }
    void back(size_t to) { used = to; }
};
