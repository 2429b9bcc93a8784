#include "newton_schulz.cuh"

namespace wssl::cuda {

Kernel kernel_32x32() { return newton_schulz_kernel<Tile<1, 1, 8, 128, 4>>; }

}  // namespace wssl::cuda
