#include "newton_schulz.cuh"

namespace wssl::cuda {

Kernel kernel_128x64() { return newton_schulz_kernel<Tile<4, 2, 1, 64, 3>>; }

}  // namespace wssl::cuda
