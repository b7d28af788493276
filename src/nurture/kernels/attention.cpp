// Causal attention within the segments of one long row, each behind a prefix that several may share; bf16.
//
// One task is a tree (a prefix with the segments behind it, or a segment alone) and a key head, so that no two tasks
// write to the same place, and which thread takes one changes nothing. Queries of all heads that share the key head are
// rows of one matrix, in blocks of up to 64; a block sees its keys in one go: scores, softmax, values. The backward pass
// computes the probabilities again from the log of each row's sum.
#include <cmath>
#include <numeric>
#include <vector>
#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 64;

int64_t up(int64_t n) { return (n + 31) / 32 * 32; }

struct Heads {  // [heads, tokens, width] with the strides of each; width is contiguous
    bf16* data;
    int64_t head, token;
    bf16* at(int64_t h, int64_t t) const { return data + h * head + t * token; }
};

struct Row {
    int64_t tokens, segments, heads, shared, width, threads;  // heads: of keys; shared: queries to each
    const int64_t *start, *length, *parent;
    float scale;
    Heads q, k, v, out, d_out, dq, dk, dv;
    float* lse;  // [heads * shared, tokens]
};

// One segment's keys (or values) as right-hand sides of products.
struct Packed {
    int64_t n, padded;
    bf16* turned;  // [width / 2][padded][2]: times queries
    bf16* paired;  // [padded / 2][width][2]: times probabilities

    Packed(Scratch& s, const Heads& x, int64_t head, int64_t start, int64_t n, int64_t width, bool turn_it, bool pair_it)
        : n(n), padded(up(n)), turned(nullptr), paired(nullptr) {
        if (turn_it) {
            turned = s.take<bf16>(padded * width);
            turn((uint32_t*)turned, padded, (const uint32_t*)x.at(head, start), x.token / 2, n, width / 2);
        }
        if (pair_it) {
            paired = s.take<bf16>(padded * width);
            for (int64_t i = 0; i < padded; i += 2) {
                bf16* to = paired + i * width;
                if (i < n) zip(to, x.at(head, start + i), i + 1 < n ? x.at(head, start + i + 1) : nullptr, width);
                else std::memset(to, 0, 4 * width);
            }
        }
    }
};

// Queries of one segment: rows are counted head by head, token by token.
struct Block {
    int64_t begin, rows, padded, seen;  // seen: how many of the segment's own keys any of its rows attends to
    const Row& row;
    int64_t kv, start, length;

    Block(const Row& row, int64_t kv, int64_t segment, int64_t begin)
        : begin(begin), row(row), kv(kv), start(row.start[segment]), length(row.length[segment]) {
        rows = std::min(BLOCK, row.shared * length - begin);
        padded = up(rows);
        seen = 0;
        for (int64_t r = 0; r < rows; r++) seen = std::max(seen, own(r));
        seen = up(seen);
    }
    int64_t head(int64_t r) const { return kv * row.shared + (begin + r) / length; }
    int64_t token(int64_t r) const { return start + (begin + r) % length; }
    int64_t own(int64_t r) const { return (begin + r) % length + 1; }

    void gather(bf16* to, const Heads& x) const {
        for (int64_t r = 0; r < rows; r++) std::memcpy(to + r * row.width, x.at(head(r), token(r)), row.width * 2);
        std::memset(to + rows * row.width, 0, (padded - rows) * row.width * 2);
    }
    void scatter(const Heads& x, const float* from) const {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < row.width; i += 16) store(x.at(head(r), token(r)) + i, load(from + r * row.width + i));
    }
};

// a [block, width] times the keys (or values) of the prefix, if any, and those of the segment, side by side.
void scores(float* to, int64_t columns, const bf16* a, const Block& b, const Packed* prefix, const Packed& own) {
    int64_t before = prefix ? prefix->padded : 0, width = b.row.width;
    if (prefix) multiply(to, columns, a, width, prefix->turned, prefix->padded, b.padded, before, width, false);
    multiply(to + before, columns, a, width, own.turned, own.padded, b.padded, b.seen, width, false);
}

// a [block, keys] times the values (or keys) behind those columns.
void weighted(float* to, const bf16* a, int64_t columns, const Block& b, const Packed* prefix, const Packed& own) {
    int64_t before = prefix ? prefix->padded : 0, width = b.row.width;
    if (prefix) multiply(to, width, a, columns, prefix->paired, width, b.padded, width, before, false);
    multiply(to, width, a + before, columns, own.paired, width, b.padded, width, b.seen, prefix != nullptr);
}

// Calls f(begin, stop) for the columns that row r attends to, and zero(begin, stop) for those between and behind.
template <class F, class Z>
void spans(const Block& b, int64_t r, const Packed* prefix, F f, Z zero) {
    int64_t before = prefix ? prefix->padded : 0;
    if (prefix) {
        f(0, prefix->n);
        zero(prefix->n, before);
    }
    f(before, before + b.own(r));
    zero(before + b.own(r), before + b.seen);
}

void blank(bf16* p, int64_t n) { std::memset(p, 0, n * 2); }

void forward(const Row& row, int64_t kv, int64_t segment, const Packed* prefix_k, const Packed* prefix_v, const Packed& k,
             const Packed& v, Scratch& scratch) {
    int64_t before = prefix_k ? prefix_k->padded : 0, widest = before + k.padded, width = row.width;
    auto* q = scratch.take<bf16>(BLOCK * width);
    auto* s = scratch.take<float>(BLOCK * widest);
    auto* p = scratch.take<bf16>(BLOCK * widest);
    auto* o = scratch.take<float>(BLOCK * width);
    for (int64_t begin = 0; begin < row.shared * row.length[segment]; begin += BLOCK) {
        Block b(row, kv, segment, begin);
        int64_t columns = before + b.seen;
        b.gather(q, row.q);
        scores(s, columns, q, b, prefix_k, k);
        float sums[BLOCK];
        for (int64_t r = 0; r < b.rows; r++) {
            const float* from = s + r * columns;
            bf16* to = p + r * columns;
            Vector top = set(-INFINITY), total = _mm512_setzero_ps();
            auto nothing = [](int64_t, int64_t) {};
            spans(b, r, prefix_k, [&](int64_t i, int64_t stop) {
                for (; i < stop; i += 16) top = _mm512_mask_max_ps(top, first(stop - i), top, load(from + i, first(stop - i)));
            }, nothing);
            float highest = most(top) * row.scale;
            Vector shift = set(-highest), scale = set(row.scale);
            spans(b, r, prefix_k, [&](int64_t i, int64_t stop) {
                for (; i < stop; i += 16) {
                    __mmask16 m = first(stop - i);
                    Vector e = exp(fma(load(from + i, m), scale, shift));
                    total = _mm512_mask_add_ps(total, m, total, e);
                    store(to + i, e, m);
                }
            }, [&](int64_t i, int64_t stop) { blank(to + i, stop - i); });
            sums[r] = sum(total);
            row.lse[b.head(r) * row.tokens + b.token(r)] = highest + std::log(sums[r]);
        }
        for (int64_t r = b.rows; r < b.padded; r++) blank(p + r * columns, columns);
        weighted(o, p, columns, b, prefix_v, v);
        for (int64_t r = 0; r < b.rows; r++)
            for (int64_t i = 0; i < width; i += 16)
                store(o + r * width + i, _mm512_mul_ps(load(o + r * width + i), set(1.f / sums[r])));
        b.scatter(row.out, o);
    }
}

struct Sums {  // of gradients of keys and values, [width][padded], turned
    float *k, *v;
    int64_t n, padded;
    Sums(Scratch& s, int64_t n, int64_t width) : n(n), padded(up(n)) {
        k = s.take<float>(width * padded);
        v = s.take<float>(width * padded);
        std::memset(k, 0, width * padded * 4);
        std::memset(v, 0, width * padded * 4);
    }
    void write(const Row& row, int64_t kv, int64_t start) const {
        __m512i index = every(padded);
        for (int64_t t = 0; t < n; t++)
            for (int64_t i = 0; i < row.width; i += 16) {
                store(row.dk.at(kv, start + t) + i, _mm512_i32gather_ps(index, k + i * padded + t, 4));
                store(row.dv.at(kv, start + t) + i, _mm512_i32gather_ps(index, v + i * padded + t, 4));
            }
    }
};

// [rows, width] -> [width, rows]; rows is a multiple of 32; `pairs` is room for as many numbers.
void transpose(bf16* to, const bf16* from, bf16* pairs, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r += 2) zip(pairs + r * width, from + r * width, from + (r + 1) * width, width);
    turn((uint32_t*)to, rows / 2, (const uint32_t*)pairs, width, rows / 2, width);
}

void backward(const Row& row, int64_t kv, int64_t segment, const Packed* prefix_k, const Packed* prefix_v,
              const Packed& k, const Packed& v, Sums* prefix_sums, Sums& sums, Scratch& scratch) {
    int64_t before = prefix_k ? prefix_k->padded : 0, widest = before + k.padded, width = row.width;
    auto* q = scratch.take<bf16>(BLOCK * width);
    auto* d_out = scratch.take<bf16>(BLOCK * width);
    auto* turned = scratch.take<bf16>(BLOCK * width);
    auto* room = scratch.take<bf16>(BLOCK * width);
    auto* s = scratch.take<float>(BLOCK * widest);
    auto* dp = scratch.take<float>(BLOCK * widest);
    auto* ds = scratch.take<bf16>(BLOCK * widest);
    auto* pairs = scratch.take<bf16>(BLOCK * widest);   // of probabilities, two rows at a time
    auto* d_pairs = scratch.take<bf16>(BLOCK * widest);  // of the gradients of scores
    auto* p = scratch.take<bf16>(2 * widest);
    auto* dq = scratch.take<float>(BLOCK * width);
    for (int64_t begin = 0; begin < row.shared * row.length[segment]; begin += BLOCK) {
        Block b(row, kv, segment, begin);
        int64_t columns = before + b.seen;
        b.gather(q, row.q);
        b.gather(d_out, row.d_out);
        scores(s, columns, q, b, prefix_k, k);
        scores(dp, columns, d_out, b, prefix_v, v);
        for (int64_t r = 0; r < b.padded; r++) {
            bf16 *probability = p + (r % 2) * columns, *to = ds + r * columns;
            if (r < b.rows) {
                const bf16* out = row.out.at(b.head(r), b.token(r));
                Vector dot = _mm512_setzero_ps();
                for (int64_t i = 0; i < width; i += 16) dot = fma(load(out + i), load(d_out + r * width + i), dot);
                Vector delta = set(sum(dot)), scale = set(row.scale);
                Vector shift = set(-row.lse[b.head(r) * row.tokens + b.token(r)]);
                spans(b, r, prefix_k, [&](int64_t i, int64_t stop) {
                    for (; i < stop; i += 16) {
                        __mmask16 m = first(stop - i);
                        Vector e = exp(fma(load(s + r * columns + i, m), scale, shift));
                        store(probability + i, e, m);
                        Vector d = _mm512_sub_ps(load(dp + r * columns + i, m), delta);
                        store(to + i, _mm512_mul_ps(_mm512_mul_ps(e, d), scale), m);
                    }
                }, [&](int64_t i, int64_t stop) {
                    blank(probability + i, stop - i);
                    blank(to + i, stop - i);
                });
            } else {
                blank(probability, columns);
                blank(to, columns);
            }
            if (r % 2) {
                zip(pairs + (r - 1) * columns, p, p + columns, columns);
                zip(d_pairs + (r - 1) * columns, to - columns, to, columns);
            }
        }
        weighted(dq, ds, columns, b, prefix_k, k);
        b.scatter(row.dq, dq);
        transpose(turned, q, room, b.padded, width);
        if (prefix_sums)
            multiply(prefix_sums->k, prefix_sums->padded, turned, b.padded, d_pairs, columns, width, before, b.padded, true);
        multiply(sums.k, sums.padded, turned, b.padded, d_pairs + 2 * before, columns, width, b.seen, b.padded, true);
        transpose(turned, d_out, room, b.padded, width);
        if (prefix_sums)
            multiply(prefix_sums->v, prefix_sums->padded, turned, b.padded, pairs, columns, width, before, b.padded, true);
        multiply(sums.v, sums.padded, turned, b.padded, pairs + 2 * before, columns, width, b.seen, b.padded, true);
    }
}

// Calls task(tree, kv, scratch) for every tree and key head, the largest first. A tree is its segments, root first.
template <class F>
void each_task(const Row& row, F task) {
    std::vector<std::vector<int64_t>> trees;
    std::vector<int64_t> tree_of(row.segments);
    for (int64_t i = 0; i < row.segments; i++)
        if (row.parent[i] < 0) {
            tree_of[i] = int64_t(trees.size());
            trees.push_back({i});
        }
    for (int64_t i = 0; i < row.segments; i++)
        if (row.parent[i] >= 0) trees[tree_of[row.parent[i]]].push_back(i);
    std::vector<int64_t> cost(trees.size()), order(trees.size());
    std::iota(order.begin(), order.end(), 0);
    for (size_t t = 0; t < trees.size(); t++) {
        int64_t prefix = row.length[trees[t][0]];
        cost[t] = prefix * prefix;
        for (size_t i = 1; i < trees[t].size(); i++) {
            int64_t n = row.length[trees[t][i]];
            cost[t] += n * (n + 2 * prefix);
        }
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return cost[a] > cost[b]; });
    int64_t tasks = int64_t(trees.size()) * row.heads;
#pragma omp parallel num_threads(row.threads)
    {
        Tiles tiles;
        static thread_local Scratch scratch;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks; i++) task(trees[order[i / row.heads]], i % row.heads, scratch);
    }
}

int64_t longest(const Row& row, const std::vector<int64_t>& tree) {
    int64_t most = 0;
    for (int64_t i : tree) most = std::max(most, up(row.length[i]));
    return most;
}

}  // namespace

extern "C" void attend(const Row* given) {
    const Row& row = *given;
    each_task(row, [&](const std::vector<int64_t>& tree, int64_t kv, Scratch& scratch) {
        int64_t root = tree[0], most = longest(row, tree), width = row.width;
        scratch.begin(8 * most * width + BLOCK * (6 * width + 12 * most) + 1024);
        Packed k(scratch, row.k, kv, row.start[root], row.length[root], width, true, false);
        Packed v(scratch, row.v, kv, row.start[root], row.length[root], width, false, true);
        size_t mark = scratch.mark();
        forward(row, kv, root, nullptr, nullptr, k, v, scratch);
        for (size_t i = 1; i < tree.size(); i++) {
            int64_t start = row.start[tree[i]], length = row.length[tree[i]];
            scratch.back(mark);
            Packed own_k(scratch, row.k, kv, start, length, width, true, false);
            Packed own_v(scratch, row.v, kv, start, length, width, false, true);
            forward(row, kv, tree[i], &k, &v, own_k, own_v, scratch);
        }
    });
}

extern "C" void attend_backward(const Row* given) {
    const Row& row = *given;
    each_task(row, [&](const std::vector<int64_t>& tree, int64_t kv, Scratch& scratch) {
        int64_t root = tree[0], most = longest(row, tree), width = row.width;
        scratch.begin(28 * most * width + BLOCK * (12 * width + 28 * most) + 8 * most + 2048);
        Packed k(scratch, row.k, kv, row.start[root], row.length[root], width, true, true);
        Packed v(scratch, row.v, kv, row.start[root], row.length[root], width, true, false);
        Sums sums(scratch, row.length[root], width);
        size_t mark = scratch.mark();
        backward(row, kv, root, nullptr, nullptr, k, v, nullptr, sums, scratch);
        for (size_t i = 1; i < tree.size(); i++) {
            int64_t start = row.start[tree[i]], length = row.length[tree[i]];
            scratch.back(mark);
            Packed own_k(scratch, row.k, kv, start, length, width, true, true);
            Packed own_v(scratch, row.v, kv, start, length, width, true, false);
            Sums own(scratch, length, width);
            backward(row, kv, tree[i], &k, &v, own_k, own_v, &sums, own, scratch);
            own.write(row, kv, start);
        }
        sums.write(row, kv, row.start[root]);
    });
}
