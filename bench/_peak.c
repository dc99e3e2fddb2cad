/* The most that 128-bit multiply-adds can give on this machine: GFLOP/s, one thread, processor time, the best of 5.
 * Compiled by bench/peers.py with -mfma: WebAssembly's vectors have 128 bits, so no kernel in it can be faster. */
#include <immintrin.h>
#include <stdio.h>
#include <time.h>

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(void) {
    __m128 x = _mm_set1_ps(0.5f), a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
    const long rounds = 1000000; /* of ten that do not wait for each other: two a cycle, four cycles each, need eight */
    double best = 0;
    for (int time = 0; time < 5; time++) {
        double began = now_ns();
        for (long n = 0; n < rounds; n++)
            __asm__ volatile(
                "vfmadd213ps %10, %10, %0\n vfmadd213ps %10, %10, %1\n vfmadd213ps %10, %10, %2\n"
                "vfmadd213ps %10, %10, %3\n vfmadd213ps %10, %10, %4\n vfmadd213ps %10, %10, %5\n"
                "vfmadd213ps %10, %10, %6\n vfmadd213ps %10, %10, %7\n vfmadd213ps %10, %10, %8\n"
                "vfmadd213ps %10, %10, %9\n"
                : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g), "+x"(h), "+x"(i), "+x"(j)
                : "x"(x));
        double found = rounds * 80 / (now_ns() - began);
        best = found > best ? found : best;
    }
    printf("%.2f\n", best);
    return 0;
}
