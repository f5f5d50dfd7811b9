/* What one core can do at most: multiply-adds of 8-bit integers from registers, and bytes read from memory.
 *
 *     cc -O3 -march=native -o bench_peaks bench_peaks.c && ./bench_peaks
 *
 * Prints "NAME VALUE" lines: dot NAME-OF-INSTRUCTION, gmacs (1e9 multiply-adds a second), and for each working set
 * in bytes read_N (1e9 bytes a second). The best of several repetitions, since this asks for a limit. scripts/roofline.py
 * builds and runs it. Sixteen independent sums hide the latency of an instruction.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define CHAINS 16
/* Names, not an array: compilers keep those in registers. */
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
#define ZERO(i) vec s##i = SET(0);
/* The compiler must neither drop a sum nor merge two of them. */
#define KEEP(i) __asm__ volatile("" : "+" CLASS(s##i));

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__AVX2__)
#include <immintrin.h>
#define CLASS "x"
#if defined(__AVX512VNNI__)
#undef CLASS
#define CLASS "v"
#define INSTRUCTION "AVX512-VNNI"
#define MACS 64
typedef __m512i vec;
#define SET(v) _mm512_set1_epi8(v)
#define STEP(i) s##i = _mm512_dpbusd_epi32(s##i, a, b);
#elif defined(__AVXVNNI__)
#define INSTRUCTION "AVX-VNNI"
#define MACS 32
typedef __m256i vec;
#define SET(v) _mm256_set1_epi8(v)
#define STEP(i) s##i = _mm256_dpbusd_avx_epi32(s##i, a, b);
#else /* pairs in 16 bits, pairs of those in 32 bits, sum: what VNNI does in one instruction */
#define INSTRUCTION "AVX2"
#define MACS 32
typedef __m256i vec;
#define SET(v) _mm256_set1_epi8(v)
#define STEP(i) \
    s##i = _mm256_add_epi32(s##i, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
#endif
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#define CLASS "w"
#define INSTRUCTION "NEON dot product"
#define MACS 16
typedef int32x4_t vec;
#define SET(v) vreinterpretq_s32_s8(vdupq_n_s8(v))
#define STEP(i) s##i = vdotq_s32(s##i, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
#endif

#ifdef MACS
static double gmacs(void) {
    vec a = SET(1), b = SET(2);
    EACH(ZERO)
    double best = 0;
    const long steps = 200000;
    for (int repetition = 0; repetition < 30; repetition++) {
        double start = now();
        for (long n = 0; n < steps; n++) {
            __asm__ volatile("" : "+" CLASS(a), "+" CLASS(b));
            EACH(STEP)
            EACH(KEEP)
        }
        double rate = (double)steps * CHAINS * MACS / (now() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}
#endif

/* AMX multiplies tiles of 16 x 64 by 64 x 16 bytes; the kernel gives them to a process that asks. */
#if defined(__AMX_INT8__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
static double amx_gmacs(void) {
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */)) return 0;
    struct { uint8_t palette, start, zero[14]; uint16_t columns[16]; uint8_t rows[16]; } config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) config.columns[i] = 64, config.rows[i] = 16;
    _tile_loadconfig(&config);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);
    double best = 0;
    const long steps = 20000;
    for (int repetition = 0; repetition < 30; repetition++) {
        double start = now();
        for (long n = 0; n < steps; n++) {
            _tile_dpbusd(0, 4, 5); _tile_dpbusd(1, 4, 5); _tile_dpbusd(2, 4, 5); _tile_dpbusd(3, 4, 5);
        }
        double rate = (double)steps * 4 * 16 * 16 * 64 / (now() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    _tile_release();
    return best;
}
#endif

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
typedef uint64_t wide __attribute__((vector_size(WIDTH)));

/* Bytes a second of reading `size` bytes again and again: a layer reads weights and maps that often. */
static double read_rate(size_t size) {
    wide *data = aligned_alloc(64, size);
    size_t count = size / sizeof(wide), loops = ((size_t)1 << 28) / size + 1;
    double best = 0;
    memset(data, 1, size);
    for (int repetition = 0; repetition < 10; repetition++) {
        wide s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        double start = now();
        for (size_t n = 0; n < loops; n++) {
            for (size_t i = 0; i + 4 <= count; i += 4) {
                s0 ^= data[i];
                s1 ^= data[i + 1];
                s2 ^= data[i + 2];
                s3 ^= data[i + 3];
            }
            __asm__ volatile("" : : "r"(data) : "memory");
        }
        double seconds = now() - start;
        volatile uint64_t sink = (s0 ^ s1 ^ s2 ^ s3)[0];
        (void)sink;
        double rate = (double)loops * (double)size / seconds * 1e-9;
        if (rate > best) best = rate;
    }
    free(data);
    return best;
}

int main(void) {
#ifdef MACS
    printf("dot %s\ngmacs %.2f\n", INSTRUCTION, gmacs());
#else
    printf("dot none\n");
#endif
#if defined(__AMX_INT8__) && defined(__linux__)
    printf("amx_gmacs %.2f\n", amx_gmacs());
#endif
    for (size_t size = (size_t)1 << 14; size <= (size_t)1 << 26; size <<= 2)
        printf("read_%zu %.2f\n", size, read_rate(size));
    return 0;
}
