// AVX2 with fused multiply-add (-mavx2 -mfma).
#if defined(__x86_64__)
#define WSSL_NAME "avx2"
#define WSSL_TABLE kernels_avx2
#define WSSL_VECTOR_BYTES 32
#include "isa_kernels.inl"
#endif
