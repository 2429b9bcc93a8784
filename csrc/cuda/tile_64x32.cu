#include "newton_schulz.cuh"

namespace wssl::cuda {

Kernel kernel_64x32() { return newton_schulz_kernel<Tile<2, 1, 4, 64, 5>>; }

}  // namespace wssl::cuda
