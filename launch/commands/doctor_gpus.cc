// The part of `tailor doctor` on NVIDIA GPUs. Everything is asked of nvidia-smi and of the driver's
// library; nothing is computed on a GPU.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "base/child_process.h"
#include "launch/commands/finding.h"
#include "launch/gpus/cuda_driver.h"

namespace tailor::launch {
namespace {

constexpr Duration kPatience = seconds(30);

std::string dotted(int version) {  // 13000 is 13.0
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::vector<std::string> words_of(const std::string& line, const char* between) {
  std::vector<std::string> out;
  for (size_t at = 0; at < line.size();) {
    const size_t begin = line.find_first_not_of(between, at);
    if (begin == std::string::npos) break;
    at = std::min(line.find_first_of(between, begin), line.size());
    out.push_back(line.substr(begin, at - begin));
  }
  return out;
}

void check_driver(const Gpus& gpus, Findings& out) {
  if (!gpus.trouble.empty())
    out.push_back({"GPU", Verdict::kNote, gpus.trouble,
                   "until then the CPU computes (tailor serve --device cpu says so at once)"});
  if (gpus.all.empty()) return;
  const std::string& version = gpus.all.front().driver;
  const bool enough = std::atoi(version.c_str()) >= least_driver();
  out.push_back({"driver", enough ? Verdict::kGood : Verdict::kNote,
                 version + "; CUDA " + cuda_version() + " needs " + std::to_string(least_driver()) +
                     " or newer",
                 enough ? "" : "update the NVIDIA driver"});
}

void check_each(const Gpu& gpu, Findings& out) {
  const std::string topic = "GPU " + std::to_string(gpu.index);
  std::string text = gpu.name + ", compute capability " + std::to_string(gpu.capability / 10) +
                     "." + std::to_string(gpu.capability % 10) + ", " +
                     gigabytes(static_cast<double>(gpu.free_bytes)) + " of " +
                     gigabytes(static_cast<double>(gpu.memory_bytes)) + " free";
  if (gpu.mig) text += ", MIG mode with " + std::to_string(gpu.instances.size()) + " instance(s)";
  const bool taken = gpu.free_bytes < gpu.memory_bytes / 10 * 9;
  out.push_back({topic, taken ? Verdict::kNote : Verdict::kGood, text,
                 taken ? "other processes hold the rest (nvidia-smi names them); a rank takes what "
                         "is free for its KV blocks"
                       : ""});
}

/// What the card says of its state, one field each. Fields that a driver does not know are skipped.
struct Field {
  const char* name;
  const char* bad;  ///< the value that is reported
  const char* found;
  const char* change;
  Verdict verdict = Verdict::kNote;
};
constexpr Field kFields[] = {
    {"compute_mode", "Prohibited", "compute mode Prohibited: nothing may run there",
     "nvidia-smi -c DEFAULT", Verdict::kBlocks},
    {"persistence_mode", "Disabled", "persistence mode is off: every start waits for the driver",
     "nvidia-smi -pm 1"},
    {"clocks_event_reasons.hw_thermal_slowdown", "Active", "clocks are lowered by heat",
     "mend its cooling; measure nothing until then"},
    {"clocks_event_reasons.sw_thermal_slowdown", "Active", "clocks are lowered by heat",
     "mend its cooling; measure nothing until then"},
    {"clocks_event_reasons.hw_power_brake_slowdown", "Active",
     "clocks are lowered by the power supply", "look at the power of the host"},
    {"clocks_event_reasons.sw_power_cap", "Active", "clocks are lowered by the power limit",
     "raise it where you may (nvidia-smi -pl WATTS)"},
};

/// index -> value, of one field; empty where nvidia-smi does not know it.
std::vector<std::pair<std::string, std::string>> query(const std::string& field) {
  const auto heard =
      ask({{"nvidia-smi", "--query-gpu=index," + field, "--format=csv,noheader,nounits"}, {}},
          kPatience);
  std::vector<std::pair<std::string, std::string>> out;
  if (!heard || heard->exit_code != 0) return out;
  std::istringstream lines(heard->output);
  for (std::string line; std::getline(lines, line);) {
    const size_t comma = line.find(", ");
    if (comma != std::string::npos) out.emplace_back(line.substr(0, comma), line.substr(comma + 2));
  }
  return out;
}

void check_state(Findings& out) {
  for (const Field& field : kFields) {
    auto values = query(field.name);
    if (const std::string name = field.name; values.empty() && name.rfind("clocks_event", 0) == 0)
      values = query("clocks_throttle" + name.substr(12));  // drivers before 535
    for (const auto& [index, value] : values)
      if (value == field.bad)
        out.push_back({"GPU " + index, field.verdict, field.found, field.change});
  }
  const auto clocks = query("clocks.sm"), most = query("clocks.max.sm");
  const auto errors = query("ecc.errors.uncorrected.volatile.total");
  for (size_t i = 0; i < clocks.size() && i < most.size(); ++i)
    out.push_back({"GPU " + clocks[i].first, Verdict::kGood,
                   "clock " + clocks[i].second + " MHz now, " + most[i].second + " MHz at most",
                   ""});
  for (const auto& [index, count] : errors)
    if (std::atol(count.c_str()) > 0)
      out.push_back({"GPU " + index, Verdict::kNote, count + " uncorrected memory errors",
                     "reset it (nvidia-smi -r) when nothing runs; replace it if they come again"});
}

void check_library(const Gpus& gpus, const CudaDriver& driver, Findings& out) {
  if (!driver.found) {
    out.push_back(
        {"CUDA", Verdict::kNote, "libcuda.so.1, the driver's library, does not load",
         "install it with the driver (libcuda1), or let the container have it (docker run "
         "--gpus all)"});
    return;
  }
  if (driver.code != 0) {
    out.push_back({"CUDA", Verdict::kNote, driver.trouble, driver.change});
    return;
  }
  const auto usable = static_cast<int>(gpus.usable.size());
  bool mig = false;
  for (const Gpu& gpu : gpus.all) mig = mig || gpu.mig;
  const bool agree = mig || driver.devices >= usable;
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  out.push_back({"CUDA", agree ? Verdict::kGood : Verdict::kNote,
                 "the driver takes up to " + dotted(driver.version) + " and shows " +
                     std::to_string(driver.devices) + " device(s), " + std::to_string(usable) +
                     " rank(s) can have one" +
                     (visible ? std::string("; CUDA_VISIBLE_DEVICES=") + visible : ""),
                 agree ? "" : "nvidia-smi shows more than CUDA: look at dmesg for lines of NVRM"});
}

void check_links(const CudaDriver& driver, Findings& out) {
  if (driver.devices < 2) return;
  std::string apart;
  for (size_t i = 0; i < driver.peers.size(); ++i)
    for (size_t j = 0; j < driver.peers.size(); ++j)
      if (!driver.peers[i][j]) apart += " " + std::to_string(i) + "-" + std::to_string(j);
  out.push_back(
      {"peer access", apart.empty() ? Verdict::kGood : Verdict::kNote,
       apart.empty() ? "every GPU reads the others' memory" : "not between these devices:" + apart,
       apart.empty() ? ""
                     : "tensor parallelism between them goes through host memory: turn "
                       "IOMMU and ACS off, or let --tp stay within the others"});
  const auto heard = ask({{"nvidia-smi", "topo", "-m"}, {}}, kPatience);
  if (!heard || heard->exit_code != 0) return;
  int linked = 0, pairs = 0;
  std::istringstream lines(heard->output);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("GPU", 0) != 0) continue;
    const std::vector<std::string> words = words_of(line, " \t");
    for (size_t j = 1; j < words.size() && j <= driver.peers.size(); ++j) {
      if (words[j] == "X") continue;
      ++pairs;
      linked += words[j].rfind("NV", 0) == 0;
    }
  }
  if (pairs == 0) return;
  const bool all = linked == pairs;
  out.push_back({"NVLink", all ? Verdict::kGood : Verdict::kNote,
                 all           ? "between all GPUs"
                 : linked == 0 ? "none: GPUs talk over PCIe"
                               : "between some GPUs only (nvidia-smi topo -m)",
                 all ? "" : "more --replicas and less --tp, or --tp within what NVLink connects"});
}

void check_worker(const std::string& worker, Findings& out) {
  if (access(worker.c_str(), X_OK) != 0) {
    out.push_back({"CUDA", Verdict::kNote, "this build computes on the CPU: it has no " + worker,
                   "launch/setup --build cuda, then use build/cuda/bin/tailor"});
    return;
  }
  const auto libraries = ask({{"ldd", worker}, {}});
  std::istringstream lines(libraries ? libraries->output : "");
  for (std::string line; std::getline(lines, line);) {
    const std::vector<std::string> words = words_of(line, " \t");
    if (words.size() < 3 || words[0].rfind("libnccl.so", 0) != 0) continue;
    const std::string version = nccl_version(words[2]);
    out.push_back({"NCCL", version.empty() ? Verdict::kNote : Verdict::kGood,
                   version.empty() ? words[2] + " does not load" : version + ", " + words[2],
                   version.empty() ? "run launch/setup --build cuda again" : ""});
    return;
  }
}

}  // namespace

void check_gpus(const Gpus& gpus, const std::string& worker, Findings& out) {
  if (gpus.all.empty() && gpus.trouble.empty()) {
    out.push_back({"CUDA", Verdict::kGood, "no NVIDIA GPU: the CPU does the math", ""});
    return;
  }
  check_driver(gpus, out);
  if (!gpus.all.empty()) {
    for (const Gpu& gpu : gpus.all) check_each(gpu, out);
    check_state(out);
  }
  const CudaDriver driver = ask_cuda_driver();
  check_library(gpus, driver, out);
  check_links(driver, out);
  check_worker(worker, out);
}

}  // namespace tailor::launch
