// Micro-kernels for AVX-512 with AVX512_BF16, which store activations in bfloat16.
#define THINLENS_FLOATS 16
#define THINLENS_TILE \
  {.rows = 2, .vectors = 5, .dense_channels = 4, .dense_vectors = 2, .product_channels = 8}
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own header
#endif
#include "micro/kernel_table.h"
