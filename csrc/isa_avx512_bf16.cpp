// Kernels for AVX-512 with AVX512_BF16, which store activations in bfloat16.
#define THINLENS_FLOATS 16
#define THINLENS_BF16
#define THINLENS_ROWS 2
#define THINLENS_VECTORS 5
#define THINLENS_BLOCK 4
#define THINLENS_DENSE_VECTORS 2
#define THINLENS_NAME "avx512_bf16"
#define THINLENS_KERNELS kernels_avx512_bf16
#include "isa.h"
