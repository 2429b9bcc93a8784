// 16-byte vectors: SSE2 on x86-64, NEON on AArch64; no flags beyond the compiler's own.
#define WSSL_NAME "baseline"
#define WSSL_TABLE kernels_baseline
#define WSSL_VECTOR_BYTES 16
#include "isa_kernels.inl"
