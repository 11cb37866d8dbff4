// Rates of the instructions of the inner loops on x86-64 with AVX-512 VNNI: alone, and two in turns.
//
//     gcc -O2 -mavx512f -mavx512bw -mavx512vnni benchmarks/instruction_rates.c -o rates && ./rates
//
// A loop has 20 independent ones of 512 bits. The best of some runs by this thread's CPU time counts.
#include <immintrin.h>
#include <stdio.h>
#include <time.h>

enum { kRuns = 100, kLoops = 10000 };

static double cpu_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

#define TEN_TIMES(what, tens) \
  what(tens##0) what(tens##1) what(tens##2) what(tens##3) what(tens##4) what(tens##5) \
      what(tens##6) what(tens##7) what(tens##8) what(tens##9)
#define MULTIPLY_ADD(i) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #i "\n"
#define LOAD_MULTIPLY_ADD(i) "vfmadd231ps (%0), %%zmm31, %%zmm" #i "\n"
#define PAIRS(i) "vpdpwssd %%zmm30, %%zmm31, %%zmm" #i "\n"
#define INTERLEAVE(i) "vpunpcklwd %%zmm30, %%zmm31, %%zmm" #i "\n"
#define BOTH(i) "vpdpwssd %%zmm30, %%zmm31, %%zmm" #i "\nvpunpcklwd %%zmm30, %%zmm31, %%zmm2" #i "\n"

#define PRINT_RATE(name, body)                                        \
  {                                                                   \
    double best = 1e9;                                                \
    for (int run = 0; run < kRuns; ++run) {                           \
      double seconds = cpu_seconds();                                 \
      for (int i = 0; i < kLoops; ++i) {                              \
        asm volatile(body : : "r"(operand) : "memory");               \
      }                                                               \
      seconds = cpu_seconds() - seconds;                              \
      best = seconds < best ? seconds : best;                         \
    }                                                                 \
    printf("%-40s %.2f a nanosecond\n", name, 20e-9 * kLoops / best); \
  }

int main(void) {
  static float operand[16] __attribute__((aligned(64)));
  PRINT_RATE("vfmadd231ps", TEN_TIMES(MULTIPLY_ADD, ) TEN_TIMES(MULTIPLY_ADD, 1))
  PRINT_RATE("vfmadd231ps, operand from L1", TEN_TIMES(LOAD_MULTIPLY_ADD, ) TEN_TIMES(LOAD_MULTIPLY_ADD, 1))
  PRINT_RATE("vpdpwssd", TEN_TIMES(PAIRS, ) TEN_TIMES(PAIRS, 1))
  PRINT_RATE("vpunpcklwd", TEN_TIMES(INTERLEAVE, ) TEN_TIMES(INTERLEAVE, 1))
  PRINT_RATE("vpdpwssd and vpunpcklwd in turns, both", TEN_TIMES(BOTH, ))
  return 0;
}
