// The CUDA driver's own word, without CUDA: libcuda.so.1 as every program of CUDA would load it.
// nvidia-smi can be well where this is not (a fabric manager that does not run, a module that is
// not loaded).
#pragma once

#include <string>
#include <vector>

namespace tailor::launch {

struct CudaDriver {
  bool found = false;   ///< libcuda.so.1 loads
  int code = 0;         ///< of cuInit; 0 = well
  std::string trouble;  ///< its name, where it is not well
  std::string change;   ///< and what to do about it
  int version = 0;      ///< 13000: the newest CUDA that the driver knows
  int devices = 0;      ///< as CUDA counts them in this process
  /// peers[i][j]: device i reads the memory of device j.
  std::vector<std::vector<bool>> peers;
};

/// Starts the driver in this process, makes no context. Cost: up to seconds with many GPUs.
CudaDriver ask_cuda_driver();

/// The version of the NCCL at `path`, "2.28.9"; empty where it does not load.
std::string nccl_version(const std::string& path);

}  // namespace tailor::launch
