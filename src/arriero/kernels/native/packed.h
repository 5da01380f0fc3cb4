// Products with matrices of 4 or 8 bits a weight, in groups of 32 inputs (GGUF's Q4_1 and Q8_0).
//
// Sixteen rows of the matrix lie side by side, four inputs of each, so that one instruction multiplies 64 weights with
// four inputs and leaves each row's sum in its own lane: nothing is added across lanes. The inputs are rounded to 8
// bits in groups of 32, as llama.cpp does. `arriero.model.packed` packs the matrices.
#pragma once

#include "vectors.h"

namespace arriero {

constexpr int GROUP = 32;

struct Matrix {
    const uint8_t* codes;     // 4 bits: (rows/16, columns/32, 4, 16, 4); 8 bits: (rows/16, columns/32, 8, 16, 4)
    const uint16_t* scales;   // (rows/16, columns/32, 16) fp16
    const uint16_t* minima;   // the same, of 4 bits; 8 bits have none: their code 128 is 0
    int64_t rows, columns;    // rows in a multiple of 16
    int64_t bits;
};

// Inputs of several tokens, C each, in 8 bits: x = scale * code.
struct Inputs {
    int8_t* codes;   // (N, C)
    float* scales;   // (N, C/32)
    float* sums;     // (N, C/32) sum of the group's x
    int64_t columns;
};

static inline void quantise(const float* x, int64_t token, Inputs& to) {
    const int64_t groups = to.columns / GROUP;
    for (int64_t g = 0; g < groups; g++) {
        const Floats a = load<Floats>(x + g * GROUP), b = load<Floats>(x + g * GROUP + LANES);
        const float largest = largest_of(larger(larger(a, -a), larger(b, -b)));
        const float scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
        int8_t* codes = to.codes + token * to.columns + g * GROUP;
        int32_t sum = 0;
        for (int half = 0; half < 2; half++) {
            const Floats scaled = (half ? b : a) * inverse;
            const Floats magic = splat(12582912.0f);
            const Ints whole = __builtin_convertvector((scaled + magic) - magic, Ints);
            typedef int8_t Codes __attribute__((vector_size(16)));
            store(codes + half * LANES, __builtin_convertvector(whole, Codes));
            for (int lane = 0; lane < LANES; lane++) sum += whole[lane];
        }
        to.scales[token * groups + g] = scale;
        to.sums[token * groups + g] = scale * float(sum);
    }
}

// out[n] = sixteen rows of the matrix times the inputs of token first + n.
template <int BITS, int TOKENS>
static inline void multiply_block(const Matrix& w, int64_t tile, const Inputs& x, int64_t first, Floats* out) {
    const int64_t groups = w.columns / GROUP;
    const uint8_t* codes = w.codes + tile * groups * (BITS * 64);
    const uint16_t* scales = w.scales + tile * groups * LANES;
    const uint16_t* minima = BITS == 4 ? w.minima + tile * groups * LANES : nullptr;
    const int8_t* inputs = x.codes + first * x.columns;
    Floats sums[TOKENS] = {};
    for (int64_t g = 0; g < groups; g++, codes += BITS * 64, inputs += GROUP) {
        Ints dots[TOKENS] = {};
        for (int j = 0; j < BITS; j++) {
            const Bytes block = load<Bytes>(codes + j * 64);
            const Bytes low = block & 15, high = block >> 4;
            for (int n = 0; n < TOKENS; n++) {
                const int8_t* four = inputs + n * x.columns + 4 * j;
                if constexpr (BITS == 4) {
                    dots[n] = dot<15>(dots[n], low, load<int32_t>(four));
                    dots[n] = dot<15>(dots[n], high, load<int32_t>(four + 16));
                } else {
                    dots[n] = dot<255>(dots[n], block, load<int32_t>(four));
                }
            }
        }
        const Floats scale = load_halves(scales + g * LANES);
        const Floats zero = BITS == 4 ? load_halves(minima + g * LANES) : scale * -128.0f;
        for (int n = 0; n < TOKENS; n++) {
            const int64_t at = (first + n) * groups + g;
            sums[n] += __builtin_convertvector(dots[n], Floats) * (scale * x.scales[at]) + zero * x.sums[at];
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
