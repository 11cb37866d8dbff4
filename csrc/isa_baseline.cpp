// Kernels for any CPU: SSE2 on x86-64, NEON on arm64.
#define THINLENS_FLOATS 4
#define THINLENS_ROWS 3
#define THINLENS_VECTORS 4
#define THINLENS_BLOCK 3
#define THINLENS_NAME "baseline"
#define THINLENS_KERNELS kernels_baseline
#include "isa.h"
