// Micro-kernels for AVX2 with FMA.
#define THINLENS_FLOATS 8
#define THINLENS_TILE {.rows = 3, .vectors = 4, .dense_channels = 3, .dense_vectors = 4}
#include "micro/kernel_table.h"
