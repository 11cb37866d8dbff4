// Micro-kernels for NEON with the BF16 extension, which store activations in bfloat16.
#define THINLENS_FLOATS 4
#define THINLENS_TILE \
  {.rows = 3, .vectors = 4, .dense_channels = 4, .dense_vectors = 3, .product_channels = 8}
#include "micro/kernel_table.h"
