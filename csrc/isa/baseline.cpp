// Micro-kernels for every CPU: SSE2 on x86-64, NEON on arm64.
#define THINLENS_FLOATS 4
#define THINLENS_TILE {.rows = 3, .vectors = 4, .dense_channels = 3, .dense_vectors = 4}
#include "micro/kernel_table.h"
