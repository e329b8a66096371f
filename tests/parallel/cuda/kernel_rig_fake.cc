#include "parallel/cuda/fake/fibers.h"
#include "tests/parallel/cuda/kernel_rig.h"

namespace tailor::parallel::gpu {

void shuffle_threads(uint64_t seed) { fake::set_next_seed(seed * 1000003); }

}  // namespace tailor::parallel::gpu
