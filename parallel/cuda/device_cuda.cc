// parallel/cuda/device.h over the CUDA runtime.
#include <cuda_runtime_api.h>

#include <string>

#include "base/check.h"
#include "parallel/cuda/device.h"

namespace tailor::parallel::gpu {
namespace {

cudaStream_t cuda(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }
cudaEvent_t cuda(Event event) { return reinterpret_cast<cudaEvent_t>(event); }

Unexpected failed(const char* what, cudaError_t code) {
  cudaGetLastError();  // what can be forgotten is forgotten: the next call is not to report it
  return fail(ErrorCode::kDeviceFailure,
              std::string(what) + ": CUDA says " + cudaGetErrorString(code));
}

Result<void> check(const char* what, cudaError_t code) {
  if (code == cudaSuccess) return {};
  return failed(what, code);
}

std::string version_text(int version) {  // 13000 is 13.0
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// The number in "cuda:N"; "cuda" is the first.
Result<int> index_of(const std::string& name) {
  if (name == "cuda") return 0;
  const bool numbered = name.size() > 5 && name.size() < 9 && name.rfind("cuda:", 0) == 0 &&
                        name.find_first_not_of("0123456789", 5) == std::string::npos;
  if (!numbered)
    return fail(ErrorCode::kInvalidArgument, "device must be cuda or cuda:N, found " + name);
  return std::stoi(name.substr(5));
}

Unexpected no_device(const std::string& name, cudaError_t code, int count) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  cudaGetLastError();
  std::string text = "device " + name + ": ";
  if (driver == 0)
    text += "no NVIDIA driver is here";
  else if (code == cudaErrorInsufficientDriver)
    text += "the NVIDIA driver knows CUDA up to " + version_text(driver) +
            ", this program was built with " + version_text(runtime) + ": update the driver";
  else if (code != cudaSuccess)
    text += std::string("CUDA says ") + cudaGetErrorString(code);
  else
    text += "this process sees " + std::to_string(count) + " GPU(s)";
  return fail(ErrorCode::kUnavailable, text + " (tailor doctor tells more)");
}

Unexpected no_room(const char* where, size_t bytes, const Result<DeviceMemoryInfo>& memory) {
  cudaGetLastError();
  return fail(
      ErrorCode::kLimitExceeded,
      std::to_string(bytes >> 20) + " MiB of " + where + " cannot be had" +
          (memory ? "; " + std::to_string(memory->free_bytes >> 20) + " MiB of " +
                        std::to_string(memory->total_bytes >> 20) + " MiB of the device are free"
                  : ""));
}

}  // namespace

struct Device::State {
  DeviceProperties properties;
  cudaStream_t stream = nullptr;
};

Result<std::unique_ptr<Device>> Device::open(const std::string& name) {
  TAILOR_ASSIGN(const int index, index_of(name));
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted != cudaSuccess || index >= count) return no_device(name, counted, count);
  TAILOR_TRY(check("cudaSetDevice", cudaSetDevice(index)));
  cudaDeviceProp found{};
  TAILOR_TRY(check("cudaGetDeviceProperties", cudaGetDeviceProperties(&found, index)));
  auto state = std::make_unique<State>();
  state->properties = {.name = found.name,
                       .index = index,
                       .major = found.major,
                       .minor = found.minor,
                       .multiprocessors = found.multiProcessorCount,
                       .memory_bytes = found.totalGlobalMem,
                       .l2_bytes = static_cast<uint64_t>(found.l2CacheSize)};
  TAILOR_TRY(
      check("cudaStreamCreate", cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking)));
  return std::make_unique<Device>(std::move(state));
}

Device::Device(std::unique_ptr<State> state) : state_(std::move(state)) {}

Device::~Device() {
  cudaDeviceSynchronize();
  cudaStreamDestroy(state_->stream);
}

const DeviceProperties& Device::properties() const { return state_->properties; }

Stream Device::stream() const { return reinterpret_cast<Stream>(state_->stream); }

Result<DeviceMemoryInfo> Device::memory() const {
  size_t free = 0, total = 0;
  TAILOR_TRY(check("cudaMemGetInfo", cudaMemGetInfo(&free, &total)));
  return DeviceMemoryInfo{free, total};
}

Result<Memory> Device::allocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t code = cudaMalloc(&data, bytes);
  if (code == cudaErrorMemoryAllocation) return no_room("device memory", bytes, memory());
  TAILOR_TRY(check("cudaMalloc", code));
  Memory out;
  out.device_ = this;
  out.data_ = static_cast<std::byte*>(data);
  out.bytes_ = bytes;
  return out;
}

Result<Memory> Device::allocate_pinned(size_t bytes) {
  void* data = nullptr;
  const cudaError_t code = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
  if (code == cudaErrorMemoryAllocation)
    return no_room("pinned host memory", bytes, fail(ErrorCode::kInternal, ""));
  TAILOR_TRY(check("cudaHostAlloc", code));
  Memory out;
  out.device_ = this;
  out.data_ = static_cast<std::byte*>(data);
  out.bytes_ = bytes;
  out.pinned_ = true;
  return out;
}

Result<OwnedStream> Device::make_stream() {
  cudaStream_t stream = nullptr;
  TAILOR_TRY(check("cudaStreamCreate", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)));
  OwnedStream out;
  out.device_ = this;
  out.stream_ = reinterpret_cast<Stream>(stream);
  return out;
}

Result<OwnedEvent> Device::make_event(bool timed) {
  cudaEvent_t event = nullptr;
  TAILOR_TRY(
      check("cudaEventCreate",
            cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming)));
  OwnedEvent out;
  out.device_ = this;
  out.event_ = reinterpret_cast<Event>(event);
  return out;
}

Result<void> Device::copy(Stream stream, void* to, const void* from, size_t bytes) {
  if (bytes == 0) return {};
  return check("cudaMemcpyAsync",
               cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, cuda(stream)));
}

Result<void> Device::fill(Stream stream, void* to, uint8_t value, size_t bytes) {
  if (bytes == 0) return {};
  return check("cudaMemsetAsync", cudaMemsetAsync(to, value, bytes, cuda(stream)));
}

Result<void> Device::record(Event event, Stream stream) {
  return check("cudaEventRecord", cudaEventRecord(cuda(event), cuda(stream)));
}

Result<void> Device::wait(Stream stream, Event event) {
  return check("cudaStreamWaitEvent", cudaStreamWaitEvent(cuda(stream), cuda(event), 0));
}

Result<bool> Device::passed(Event event) const {
  const cudaError_t code = cudaEventQuery(cuda(event));
  if (code == cudaErrorNotReady) return false;
  TAILOR_TRY(check("a kernel or copy before this event", code));
  return true;
}

Result<Duration> Device::elapsed(Event from, Event to) const {
  float ms = 0;
  TAILOR_TRY(check("cudaEventElapsedTime", cudaEventElapsedTime(&ms, cuda(from), cuda(to))));
  return from_seconds(static_cast<double>(ms) / 1e3);
}

void Device::give_back(std::byte* data, bool pinned) {
  if (pinned)
    cudaFreeHost(data);
  else
    cudaFree(data);
}
void Device::give_back(Event event) { cudaEventDestroy(cuda(event)); }
void Device::give_back(Stream stream) {
  cudaStreamSynchronize(cuda(stream));
  cudaStreamDestroy(cuda(stream));
}

}  // namespace tailor::parallel::gpu
