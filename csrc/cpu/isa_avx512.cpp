// AVX-512 F, BW, DQ, VL (-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma).
#if defined(__x86_64__)
#define WSSL_NAME "avx512"
#define WSSL_TABLE kernels_avx512
#define WSSL_VECTOR_BYTES 64
#include "isa_kernels.inl"
#endif
