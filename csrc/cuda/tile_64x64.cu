#include "newton_schulz.cuh"

namespace wssl::cuda {

Kernel kernel_64x64() { return newton_schulz_kernel<Tile<2, 2, 2, 64, 3>>; }

}  // namespace wssl::cuda
