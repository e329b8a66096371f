#include "launch/gpus/cuda_driver.h"

#include <dlfcn.h>

#include <memory>

namespace tailor::launch {
namespace {

/// Kept loaded: what has started threads cannot be unloaded.
void* load(const char* path) { return dlopen(path, RTLD_NOW | RTLD_LOCAL); }

template <class Function>
Function symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

std::string change_for(int code) {
  switch (code) {
    case 3:    // not initialized
    case 999:  // unknown
      return "load the driver's modules (modprobe nvidia nvidia-uvm); in a container give it the "
             "GPUs (docker run --gpus all)";
    case 100:  // no device
      return "in a container give it the GPUs (docker run --gpus all); else look at dmesg";
    case 802:  // system not ready
      return "start NVIDIA's fabric manager (systemctl start nvidia-fabricmanager), of the very "
             "version of the driver";
    case 803:  // system driver mismatch
      return "library and module of the driver differ: reboot, or reload the nvidia modules";
    case 804:  // compatibility not supported
      return "take the CUDA compat libraries out of LD_LIBRARY_PATH: this GPU does not take them";
    default:
      return "look at dmesg for lines of NVRM; a reboot mends most of it";
  }
}

}  // namespace

CudaDriver ask_cuda_driver() {
  CudaDriver out;
  void* library = load("libcuda.so.1");
  if (library == nullptr) return out;
  out.found = true;
  const auto init = symbol<int (*)(unsigned)>(library, "cuInit");
  const auto name = symbol<int (*)(int, const char**)>(library, "cuGetErrorName");
  const auto version = symbol<int (*)(int*)>(library, "cuDriverGetVersion");
  const auto count = symbol<int (*)(int*)>(library, "cuDeviceGetCount");
  const auto peer = symbol<int (*)(int*, int, int)>(library, "cuDeviceCanAccessPeer");
  if (init == nullptr || name == nullptr || version == nullptr || count == nullptr ||
      peer == nullptr) {
    out.code = -1;
    out.trouble = "libcuda.so.1 lacks functions of CUDA's driver";
    out.change = "install the driver again";
    return out;
  }
  version(&out.version);
  out.code = init(0);
  if (out.code != 0) {
    const char* text = nullptr;
    if (name(out.code, &text) != 0 || text == nullptr) text = "an unknown error";
    out.trouble = "cuInit says " + std::string(text) + " (" + std::to_string(out.code) + ")";
    out.change = change_for(out.code);
    return out;
  }
  count(&out.devices);
  out.peers.resize(static_cast<size_t>(out.devices));
  for (int i = 0; i < out.devices; ++i)
    for (int j = 0; j < out.devices; ++j) {
      int can = 0;
      out.peers[static_cast<size_t>(i)].push_back(i == j || (peer(&can, i, j) == 0 && can != 0));
    }
  return out;
}

std::string nccl_version(const std::string& path) {
  void* library = load(path.c_str());
  if (library == nullptr) return "";
  const auto version = symbol<int (*)(int*)>(library, "ncclGetVersion");
  int number = 0;
  if (version == nullptr || version(&number) != 0) return "";
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
         std::to_string(number % 100);
}

}  // namespace tailor::launch
