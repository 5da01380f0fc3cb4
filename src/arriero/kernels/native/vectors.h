// Sixteen lanes at a time, in GCC's and Clang's portable vectors: on a CPU without such registers they become several.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace arriero {

constexpr int LANES = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(64)));

template <class V>
static inline V load(const void* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <class V>
static inline void store(void* to, V v) {
    std::memcpy(to, &v, sizeof v);
}

static inline Floats splat(float x) { return x - Floats{}; }

static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

static inline float sum_of(Floats v) {
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += v[lane];
    return total;
}

static inline float largest_of(Floats v) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)v);
#else
    float largest = v[0];
    for (int lane = 1; lane < LANES; lane++) largest = v[lane] > largest ? v[lane] : largest;
    return largest;
#endif
}

// Sixteen fp16 numbers.
static inline Floats load_halves(const uint16_t* from) {
#ifdef __AVX512F__
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#else
    Floats v;
    for (int lane = 0; lane < LANES; lane++) {
        _Float16 half;
        std::memcpy(&half, from + lane, sizeof half);
        v[lane] = half;
    }
    return v;
#endif
}

// Sixteen numbers of the cache, which has fp32 or fp16.
static inline Floats load_stored(const float* from) { return load<Floats>(from); }
static inline Floats load_stored(const uint16_t* from) { return load_halves(from); }

static inline void store_as(float* to, Floats v) { store(to, v); }

static inline void store_as(uint16_t* to, Floats v) {
#ifdef __AVX512F__
    _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    for (int lane = 0; lane < LANES; lane++) {
        const _Float16 half = (_Float16)v[lane];
        std::memcpy(to + lane, &half, sizeof half);
    }
#endif
}

// e^x to about 1e-7 of its value: 2^n e^r with |r| <= ln 2 / 2, and e^r by its series up to r^6 / 720.
static inline Floats exponential(Floats x) {
    x = x < splat(-87.0f) ? splat(-87.0f) : x;
    x = x > splat(88.0f) ? splat(88.0f) : x;
    const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest whole number
    const Floats n = (x * 1.44269504088896341f + magic) - magic;
    const Floats r = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
    Floats series = splat(1.0f / 720);
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    return series * (Floats)power;
}

// sums[r] += weights[4r .. 4r+3] . the four signed bytes of `inputs`, for sixteen rows r; weights up to `largest`.
template <int largest>
static inline Ints dot(Ints sums, Bytes weights, int32_t inputs) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(inputs));
#elif defined(__AVX2__)
    // Products of weights above 127 would overflow the 16 bits of their pairs: those are taken as 16 high + low.
    if constexpr (largest > 127) {
        const Ints high = dot<15>(Ints{}, weights >> 4, inputs);
        return dot<15>(sums + high * 16, weights & 15, inputs);
    }
    const __m256i broadcast = _mm256_set1_epi32(inputs), ones = _mm256_set1_epi16(1);
    __m256i half[2], out[2];
    std::memcpy(half, &weights, sizeof half);
    for (int i = 0; i < 2; i++) out[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(half[i], broadcast), ones);
    return sums + load<Ints>(out);
#else
    int8_t input[4];
    std::memcpy(input, &inputs, sizeof input);
    for (int row = 0; row < LANES; row++)
        for (int i = 0; i < 4; i++) sums[row] += int32_t(weights[4 * row + i]) * input[i];
    return sums;
#endif
}

}  // namespace arriero
