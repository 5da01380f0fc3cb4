// Causal attention over a paged KV cache of fp32 or fp16, computed in fp32: the running softmax of FlashAttention (Dao et al. 2022, algorithm 1)
// with a page of sixteen keys as the tile.
#pragma once

#include "pool.h"
#include "vectors.h"

namespace arriero {

constexpr int PAGE = LANES;   // keys of a page
constexpr int QUERIES = 16;   // tokens of a block
constexpr int MAX_HEAD = 256;
constexpr int MAX_ROWS = 256;  // queries of a block times the heads that share a KV head

// The new tokens of one row of the batch.
struct Span {
    int64_t first;         // of its tokens among those of the step
    int64_t tokens;
    int64_t start;         // tokens of the row that were there before
    const int32_t* pages;  // of the row, in order
};

// One layer's pools and the shape of its heads; T is float, or uint16_t for fp16.
template <class T>
struct Pages {
    T* k;  // (P, K, PAGE, D)
    T* v;
    int64_t heads, kv_heads, dim;  // H, K, D

    T* key(int64_t page, int64_t head) const { return k + (page * kv_heads + head) * PAGE * dim; }
    T* value(int64_t page, int64_t head) const { return v + (page * kv_heads + head) * PAGE * dim; }
};

// Sixteen vectors as the columns of what they were the rows of: each round interleaves the halves, and turns the eight
// bits of an element's place by one.
static inline void transpose(Floats* rows) {
    for (int round = 0; round < 4; round++) {
        Floats next[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            const Floats a = rows[i], b = rows[i + LANES / 2];
            next[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            next[2 * i + 1] =
                __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        for (int i = 0; i < LANES; i++) rows[i] = next[i];
    }
}

// scores[r] = q_r . each of sixteen keys; across (D) holds a number of each key.
template <int ROWS>
static inline void score_rows(const float* const* q, const Floats* across, int64_t dim, Floats* scores) {
    Floats sums[ROWS] = {};
    for (int64_t d = 0; d < dim; d++)
        for (int r = 0; r < ROWS; r++) sums[r] += across[d] * q[r][d];
    for (int r = 0; r < ROWS; r++) scores[r] = sums[r];
}

// out_r = shrink_r out_r + the sum of the keys' values, by their weights.
template <int ROWS, int PARTS, class T>
static inline void add_rows(
    float* const* out, const Floats* weights, const float* shrink, const T* values, int keys, int64_t dim) {
    for (int64_t d = 0; d < dim; d += PARTS * LANES) {
        Floats sums[ROWS][PARTS];
        for (int r = 0; r < ROWS; r++)
            for (int p = 0; p < PARTS; p++) sums[r][p] = load<Floats>(out[r] + d + p * LANES) * shrink[r];
        for (int key = 0; key < keys; key++)
            for (int p = 0; p < PARTS; p++) {
                const Floats value = load_stored(values + key * dim + d + p * LANES);
                for (int r = 0; r < ROWS; r++) sums[r][p] += value * weights[r][key];
            }
        for (int r = 0; r < ROWS; r++)
            for (int p = 0; p < PARTS; p++) store(out[r] + d + p * LANES, sums[r][p]);
    }
}

template <class T>
static inline void score_page(const float* const* q, int64_t rows, const T* keys, int64_t dim, Floats* scores) {
    Floats across[MAX_HEAD];
    for (int64_t d = 0; d < dim; d += LANES) {
        for (int key = 0; key < PAGE; key++) across[d + key] = load_stored(keys + key * dim + d);
        transpose(across + d);
    }
    int64_t r = 0;
    for (; r + 6 <= rows; r += 6) score_rows<6>(q + r, across, dim, scores + r);
    for (; r + 3 <= rows; r += 3) score_rows<3>(q + r, across, dim, scores + r);
    for (; r < rows; r++) score_rows<1>(q + r, across, dim, scores + r);
}

template <int PARTS, class T>
static inline void add_values(
    float* const* out, int64_t rows, const Floats* weights, const float* shrink, const T* values, int keys,
    int64_t dim) {
    int64_t r = 0;
    for (; r + 6 <= rows; r += 6) add_rows<6, PARTS>(out + r, weights + r, shrink + r, values, keys, dim);
    for (; r + 3 <= rows; r += 3) add_rows<3, PARTS>(out + r, weights + r, shrink + r, values, keys, dim);
    for (; r < rows; r++) add_rows<1, PARTS>(out + r, weights + r, shrink + r, values, keys, dim);
}

// Ask for a page while the one before it is worked on: the processor does not foresee where it lies.
template <class T>
static inline void fetch_page(const Pages<T>& pages, int64_t page, int64_t head) {
    const char *k = (const char*)pages.key(page, head), *v = (const char*)pages.value(page, head);
    for (int64_t at = 0; at < int64_t(PAGE * pages.dim * sizeof(T)); at += 64) {
        __builtin_prefetch(k + at);
        __builtin_prefetch(v + at);
    }
}

// The attention of `count` tokens of a span, from its token t0 on, for all heads of one KV head. q and out (N, H, D).
template <class T>
static inline void attend(
    const Pages<T>& pages, const Span& span, int64_t t0, int64_t count, int64_t kv_head, float scale, const float* q,
    float* out) {
    const int64_t group = pages.heads / pages.kv_heads, rows = count * group;
    const float* queries[MAX_ROWS];
    float* outs[MAX_ROWS];
    float peak[MAX_ROWS], total[MAX_ROWS], shrink[MAX_ROWS];
    Floats weights[MAX_ROWS];
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = (span.first + t0 + r / group) * pages.heads + kv_head * group + r % group;
        queries[r] = q + at * pages.dim;
        outs[r] = out + at * pages.dim;
        peak[r] = -INFINITY;
        total[r] = 0;
        std::memset(outs[r], 0, pages.dim * sizeof(float));
    }
    const int64_t seen = span.start + t0 + count;  // keys of the last query
    const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int64_t from = 0; from < seen; from += PAGE) {
        const int32_t page = span.pages[from / PAGE];
        if (from + PAGE < seen) fetch_page(pages, span.pages[from / PAGE + 1], kv_head);
        score_page(queries, rows, pages.key(page, kv_head), pages.dim, weights);
        for (int64_t r = 0; r < rows; r++) {
            const int32_t last = int32_t(span.start + t0 + r / group - from);  // the last lane that this query sees
            const Floats score = lane <= last ? weights[r] * scale : splat(-INFINITY);
            const float before = peak[r], now = std::fmax(before, largest_of(score));
            if (now == -INFINITY) {  // the query sees none of the page's keys
                weights[r] = Floats{};
                shrink[r] = 1;
                continue;
            }
            weights[r] = lane <= last ? exponential(score - now) : Floats{};
            shrink[r] = before == -INFINITY ? 0.0f : std::exp(before - now);
            total[r] = total[r] * shrink[r] + sum_of(weights[r]);
            peak[r] = now;
        }
        const int keys = int(seen - from < PAGE ? seen - from : PAGE);
        const T* values = pages.value(page, kv_head);
        if (pages.dim % (2 * LANES) == 0)
            add_values<2>(outs, rows, weights, shrink, values, keys, pages.dim);
        else
            add_values<1>(outs, rows, weights, shrink, values, keys, pages.dim);
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < pages.dim; d += LANES) store(outs[r] + d, load<Floats>(outs[r] + d) / total[r]);
}

// The attention of all spans, in blocks of tokens and KV heads.
template <class T>
static inline void attend_all(
    Pool& pool, const Pages<T>& pages, const Span* spans, int64_t count, float scale, const float* q, float* out) {
    struct Block {
        const Span* span;
        int64_t from, count, head;
    };
    std::vector<Block> blocks;
    for (const Span* span = spans; span < spans + count; span++)
        for (int64_t from = 0; from < span->tokens; from += QUERIES) {
            const int64_t left = span->tokens - from;
            for (int64_t head = 0; head < pages.kv_heads; head++)
                blocks.push_back({span, from, left < QUERIES ? left : QUERIES, head});
        }
    pool.each(blocks.size(), [&](int64_t begin, int64_t end) {
        for (const Block* b = &blocks[begin]; b < &blocks[0] + end; b++)
            attend(pages, *b->span, b->from, b->count, b->head, scale, q, out);
    });
}

}  // namespace arriero
