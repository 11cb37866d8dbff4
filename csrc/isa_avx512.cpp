// Kernels for AVX-512F.
#define THINLENS_FLOATS 16
#define THINLENS_ROWS 3
#define THINLENS_VECTORS 5
#define THINLENS_BLOCK 4
#define THINLENS_NAME "avx512"
#define THINLENS_KERNELS kernels_avx512
#include "isa.h"
