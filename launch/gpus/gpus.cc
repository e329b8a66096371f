#include "launch/gpus/gpus.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "base/child_process.h"

namespace tailor::launch {
namespace {

constexpr Duration kPatience = seconds(30);  // a driver that must be loaded first takes its time
constexpr int kLeastCapability = 80;         // BF16

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, at);) {
    const size_t first = part.find_first_not_of(" \t\r"), last = part.find_last_not_of(" \t\r");
    parts.push_back(first == std::string::npos ? "" : part.substr(first, last - first + 1));
  }
  return parts;
}

/// UUIDs of the MIG instances under each "GPU N:" of nvidia-smi -L.
void read_instances(const std::string& list, std::vector<Gpu>& gpus) {
  Gpu* gpu = nullptr;
  std::istringstream in(list);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("GPU ", 0) == 0) {
      const int index = std::atoi(line.c_str() + 4);
      const auto found =
          std::find_if(gpus.begin(), gpus.end(), [&](const Gpu& g) { return g.index == index; });
      gpu = found == gpus.end() ? nullptr : &*found;
    } else if (const size_t at = line.find("MIG-"); gpu != nullptr && at != std::string::npos) {
      gpu->instances.push_back(line.substr(at, line.find(')', at) - at));
    }
  }
}

/// What CUDA_VISIBLE_DEVICES names, as CUDA reads it: a word that names nothing ends the list.
std::vector<std::string> named(const std::vector<Gpu>& gpus, const std::string& visible) {
  std::vector<std::string> out;
  for (const std::string& word : split(visible, ',')) {
    const size_t before = out.size();
    if (word.rfind("MIG-", 0) == 0) {
      for (const Gpu& gpu : gpus)
        for (const std::string& instance : gpu.instances)
          if (instance == word) out.push_back(instance);
    } else {
      for (const Gpu& gpu : gpus) {
        const bool means = word.rfind("GPU-", 0) == 0 ? gpu.uuid.rfind(word, 0) == 0
                                                      : word == std::to_string(gpu.index);
        if (!means) continue;
        if (gpu.mig)
          out.insert(out.end(), gpu.instances.begin(), gpu.instances.end());
        else
          out.push_back(gpu.uuid);
      }
    }
    if (out.size() == before) break;
  }
  return out;
}

/// Why a rank cannot compute there; empty where it can.
std::string against(const Gpu& gpu) {
  const std::string name = "GPU " + std::to_string(gpu.index) + " (" + gpu.name + ")";
  if (std::atoi(gpu.driver.c_str()) < least_driver())
    return "the NVIDIA driver is " + gpu.driver + ", CUDA " + cuda_version() + " needs " +
           std::to_string(least_driver()) + " or newer: update the driver" +
           (least_driver() == 580 ? ", or build with a CUDA 12.4 or newer of the system" : "");
  if (gpu.capability < kLeastCapability)
    return name + " has compute capability " + std::to_string(gpu.capability / 10) + "." +
           std::to_string(gpu.capability % 10) + ", BF16 needs 8.0 or newer";
  if (gpu.mig && gpu.instances.empty())
    return name +
           " is in MIG mode and has no instance: make one (nvidia-smi mig -cgi ... -C), or "
           "turn MIG off (nvidia-smi -mig 0)";
  return "";
}

}  // namespace

const Gpu* Gpus::of(const std::string& uuid) const {
  for (const Gpu& gpu : all)
    if (gpu.uuid == uuid || std::count(gpu.instances.begin(), gpu.instances.end(), uuid) > 0)
      return &gpu;
  return nullptr;
}

const char* cuda_version() { return TAILOR_CUDA_VERSION; }
int least_driver() { return std::atoi(TAILOR_CUDA_VERSION) >= 13 ? 580 : 525; }

Gpus read_gpus(const std::string& query, const std::string& list,
               const std::optional<std::string>& visible) {
  Gpus out;
  for (const std::string& line : split(query, '\n')) {
    const std::vector<std::string> field = split(line, ',');
    if (field.size() < 8) continue;
    Gpu gpu;
    gpu.index = std::atoi(field[0].c_str());
    gpu.uuid = field[1];
    gpu.name = field[2];
    gpu.driver = field[3];
    gpu.capability = static_cast<int>(std::strtod(field[4].c_str(), nullptr) * 10 + 0.5);
    gpu.mig = field[5] == "Enabled";
    gpu.memory_bytes = std::strtoull(field[6].c_str(), nullptr, 10) << 20;
    gpu.free_bytes = std::strtoull(field[7].c_str(), nullptr, 10) << 20;
    out.all.push_back(std::move(gpu));
  }
  read_instances(list, out.all);
  std::vector<std::string> seen;
  if (visible) {
    seen = named(out.all, *visible);
    const bool hidden = visible->empty() || *visible == "-1";
    if (seen.empty() && !out.all.empty() && !hidden)
      out.trouble = "CUDA_VISIBLE_DEVICES=" + *visible + " names none of the " +
                    std::to_string(out.all.size()) + " GPU(s) here";
  } else {
    for (const Gpu& gpu : out.all) {
      if (gpu.mig && !gpu.instances.empty())
        seen.insert(seen.end(), gpu.instances.begin(), gpu.instances.end());
      else
        seen.push_back(gpu.uuid);
    }
  }
  std::string why;
  for (const std::string& uuid : seen) {
    const std::string objection = against(*out.of(uuid));
    if (objection.empty())
      out.usable.push_back(uuid);
    else
      why = objection;
  }
  if (out.usable.empty() && !why.empty()) out.trouble = why;
  return out;
}

Gpus find_gpus() {
  const char* value = std::getenv("CUDA_VISIBLE_DEVICES");
  const auto visible = value == nullptr ? std::nullopt : std::optional<std::string>(value);
  Gpus none;
  if (visible && (visible->empty() || *visible == "-1")) return none;
  auto heard = ask({{"nvidia-smi", kGpuQuery, "--format=csv,noheader,nounits"}, {}}, kPatience);
  if (!heard) return none;
  std::string query = heard->output;
  if (query.find("not a valid field") != std::string::npos) {  // drivers before 510: too old anyway
    heard = ask({{"nvidia-smi", "--query-gpu=index,uuid,name,driver_version",
                  "--format=csv,noheader,nounits"},
                 {}},
                kPatience);
    query.clear();
    for (const std::string& line : split(heard ? heard->output : "", '\n'))
      query += line + ", 0, [N/A], 0, 0\n";
  } else if (heard->exit_code != 0) {
    none.trouble = heard->exit_code < 0 ? "nvidia-smi does not answer: restart the driver"
                                        : "nvidia-smi says: " + heard->first_line();
    return none;
  }
  std::string list;
  if (query.find("Enabled") != std::string::npos)
    if (const auto instances = ask({{"nvidia-smi", "-L"}, {}}, kPatience)) list = instances->output;
  return read_gpus(query, list, visible);
}

}  // namespace tailor::launch
