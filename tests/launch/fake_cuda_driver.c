/* A libcuda.so.1 for tests (FAKE_CUDA_CODE: what cuInit says; FAKE_CUDA_DEVICES; FAKE_CUDA_APART: no peers), and the one
   call of NCCL that `tailor doctor` makes. */
#include <stdlib.h>

static int number(const char* name, int otherwise) {
  const char* value = getenv(name);
  return value ? atoi(value) : otherwise;
}
int cuInit(unsigned flags) {
  (void)flags;
  return number("FAKE_CUDA_CODE", 0);
}
int cuGetErrorName(int code, const char** text) {
  *text = code == 802 ? "CUDA_ERROR_SYSTEM_NOT_READY" : "CUDA_ERROR_UNKNOWN";
  return 0;
}
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = number("FAKE_CUDA_DEVICES", 1);
  return 0;
}
int cuDeviceCanAccessPeer(int* can, int device, int peer) {
  (void)device;
  (void)peer;
  *can = !number("FAKE_CUDA_APART", 0);
  return 0;
}
int ncclGetVersion(int* version) {
  *version = 22809;
  return 0;
}
