// Products with matrices of 4 or 8 bits a weight, in groups of 32 inputs (GGUF's Q4_1 and Q8_0).
//
// Sixteen rows of the matrix lie side by side, four inputs of each, so that one instruction multiplies 64 weights with
// four inputs and leaves each row's sum in its own lane: nothing is added across lanes. The inputs are rounded to 15
// bits in groups of 32, and multiplied as a high and a low byte: llama.cpp's 8 bits would take half of the instructions
// and let near ties between tokens fall the other way. `arriero.model.packed` packs the matrices.
#pragma once

#include "vectors.h"

namespace arriero {

constexpr int GROUP = 32;
constexpr int BYTES = 2 * GROUP;  // of a group's inputs
constexpr float LARGEST = 127 * 128;

struct Matrix {
    const uint8_t* codes;     // 4 bits: (rows/16, columns/32, 4, 16, 4); 8 bits: (rows/16, columns/32, 8, 16, 4)
    const uint16_t* scales;   // (rows/16, columns/32, 16) fp16
    const uint16_t* minima;   // the same, of 4 bits; 8 bits have none: their code 128 is 0
    int64_t rows, columns;    // rows in a multiple of 16
    int64_t bits;
};

// Inputs of several tokens, C each, in 15 bits: x = scale * (128 high + low).
struct Inputs {
    int8_t* codes;   // (N, C/32, 2, 32) the group's high bytes, then its low ones
    float* scales;   // (N, C/32)
    float* sums;     // (N, C/32) sum of the group's x
    int64_t columns;
};

static inline Floats nearest(Floats x) {
    const Floats magic = splat(12582912.0f);  // 1.5 * 2^23
    return (x + magic) - magic;
}

static inline void quantise(const float* x, int64_t token, Inputs& to) {
    typedef int8_t Codes __attribute__((vector_size(16)));
    const int64_t groups = to.columns / GROUP;
    for (int64_t g = 0; g < groups; g++) {
        const Floats halves[2] = {load<Floats>(x + g * GROUP), load<Floats>(x + g * GROUP + LANES)};
        const Floats a = larger(halves[0], -halves[0]), b = larger(halves[1], -halves[1]);
        const float largest = largest_of(larger(a, b)), inverse = largest > 0 ? LARGEST / largest : 0.0f;
        int8_t* codes = to.codes + (token * groups + g) * BYTES;
        Floats sum{};
        for (int half = 0; half < 2; half++) {
            const Floats whole = nearest(halves[half] * inverse), high = nearest(whole * (1.0f / 128));
            const Floats low = whole - high * 128.0f;
            sum += whole;
            const Ints wide[2] = {__builtin_convertvector(high, Ints), __builtin_convertvector(low, Ints)};
            store(codes + half * LANES, __builtin_convertvector(wide[0], Codes));
            store(codes + GROUP + half * LANES, __builtin_convertvector(wide[1], Codes));
        }
        to.scales[token * groups + g] = largest / LARGEST;
        to.sums[token * groups + g] = largest / LARGEST * sum_of(sum);
    }
}

// out[n] = sixteen rows of the matrix times the inputs of token first + n.
template <int BITS, int TOKENS>
static inline void multiply_block(const Matrix& w, int64_t tile, const Inputs& x, int64_t first, Floats* out) {
    const int64_t groups = w.columns / GROUP;
    const uint8_t* codes = w.codes + tile * groups * (BITS * 64);
    const uint16_t* scales = w.scales + tile * groups * LANES;
    const uint16_t* minima = BITS == 4 ? w.minima + tile * groups * LANES : nullptr;
    const int8_t* inputs = x.codes + first * groups * BYTES;
    Floats sums[TOKENS] = {};
    for (int64_t g = 0; g < groups; g++, codes += BITS * 64, inputs += BYTES) {
        Ints high[TOKENS] = {}, low[TOKENS] = {};
        for (int j = 0; j < BITS; j++) {
            const Bytes block = load<Bytes>(codes + j * 64);
            for (int n = 0; n < TOKENS; n++) {
                const int8_t* four = inputs + n * groups * BYTES + 4 * j;
                if constexpr (BITS == 4) {
                    const Bytes first_half = block & 15, second_half = block >> 4;
                    high[n] = dot<15>(high[n], first_half, load<int32_t>(four));
                    low[n] = dot<15>(low[n], first_half, load<int32_t>(four + GROUP));
                    high[n] = dot<15>(high[n], second_half, load<int32_t>(four + 16));
                    low[n] = dot<15>(low[n], second_half, load<int32_t>(four + GROUP + 16));
                } else {
                    high[n] = dot<255>(high[n], block, load<int32_t>(four));
                    low[n] = dot<255>(low[n], block, load<int32_t>(four + GROUP));
                }
            }
        }
        const Floats scale = load_halves(scales + g * LANES);
        const Floats zero = BITS == 4 ? load_halves(minima + g * LANES) : scale * -128.0f;
        for (int n = 0; n < TOKENS; n++) {
            const int64_t at = (first + n) * groups + g;
            const Floats dots = __builtin_convertvector(high[n] * 128 + low[n], Floats);
            sums[n] += dots * (scale * x.scales[at]) + zero * x.sums[at];
        }
    }
    for (int n = 0; n < TOKENS; n++) out[n] = sums[n];
}

template <int BITS, int TOKENS, class Take>
static inline int64_t multiply_blocks(
    const Matrix& w, int64_t tile, const Inputs& x, int64_t from, int64_t tokens, const Take& take) {
    for (; from + TOKENS <= tokens; from += TOKENS) {
        Floats out[TOKENS];
        multiply_block<BITS, TOKENS>(w, tile, x, from, out);
        for (int n = 0; n < TOKENS; n++) take(from + n, out[n]);
    }
    return from;
}

template <int BITS, class Take>
static inline void multiply_tile(const Matrix& w, int64_t tile, const Inputs& x, int64_t tokens, const Take& take) {
    int64_t done = multiply_blocks<BITS, 8>(w, tile, x, 0, tokens, take);
    done = multiply_blocks<BITS, 4>(w, tile, x, done, tokens, take);
    multiply_blocks<BITS, 1>(w, tile, x, done, tokens, take);
}

// take(token, sixteen outputs) for each token: rows 16 tile to 16 tile + 15 of W x.
template <class Take>
static inline void multiply(const Matrix& w, int64_t tile, const Inputs& x, int64_t tokens, const Take& take) {
    if (w.bits == 4)
        multiply_tile<4>(w, tile, x, tokens, take);
    else
        multiply_tile<8>(w, tile, x, tokens, take);
}

}  // namespace arriero
