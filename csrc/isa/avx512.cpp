// Micro-kernels for AVX-512F.
#define THINLENS_FLOATS 16
#define THINLENS_TILE \
  {.rows = 3, .vectors = 5, .dense_channels = 4, .dense_vectors = 5, .product_channels = 8}
#include "micro/kernel_table.h"
