// Kernels for AVX2 with FMA.
#define THINLENS_FLOATS 8
#define THINLENS_ROWS 3
#define THINLENS_VECTORS 4
#define THINLENS_BLOCK 3
#define THINLENS_NAME "avx2"
#define THINLENS_KERNELS kernels_avx2
#include "isa.h"
