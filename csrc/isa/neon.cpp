// Micro-kernels for NEON: 32 registers of 4 floats.
#define THINLENS_FLOATS 4
#define THINLENS_TILE \
  {.rows = 3, .vectors = 8, .dense_channels = 8, .dense_vectors = 3, .product_channels = 8}
#include "micro/kernel_table.h"
