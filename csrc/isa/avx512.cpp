// Micro-kernels for AVX-512F and AVX-512BW.
#define THINLENS_FLOATS 16
#define THINLENS_TILE     \
  {.rows = 3,             \
   .vectors = 5,          \
   .dense_channels = 4,   \
   .dense_vectors = 5,    \
   .product_channels = 8, \
   .int16_rows = 2,       \
   .int16_vectors = 5,    \
   .int16_dense_vectors = 2}
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own header
#endif
#include "micro/kernel_table.h"
