// A stream of work on a device: what is put into it runs in order, later than the call that put it
// there, and beside other streams. Opaque: a cudaStream_t where nvcc compiles, a queue
// (parallel/cuda/stream_fake.h) where g++ does.
#pragma once

namespace tailor::parallel::gpu {

using Stream = struct StreamHandle*;

}  // namespace tailor::parallel::gpu
