#include "tie/safetensors_writer.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

namespace tailor::tie {

void SafetensorsWriter::add(const std::string& name, const std::vector<int64_t>& shape,
                            std::span<const float> values) {
  const size_t begin = data_.size();
  data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  entries_.push_back({name, shape, begin, data_.size()});
}

Result<void> SafetensorsWriter::write(const std::string& path) const {
  nlohmann::json header;
  for (const auto& [key, text] : metadata_) header["__metadata__"][key] = text;
  for (const Entry& entry : entries_)
    header[entry.name] = {
        {"dtype", "F32"}, {"shape", entry.shape}, {"data_offsets", {entry.begin, entry.end}}};
  std::string head = header.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  head.resize((head.size() + 7) / 8 * 8, ' ');  // the format wants aligned data
  const uint64_t size = head.size();

  const std::string next = path + ".next." + std::to_string(getpid());
  std::ofstream out(next, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&size), sizeof size);
  out << head << data_;
  out.close();
  if (!out || std::rename(next.c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(next.c_str());
    return fail(ErrorCode::kUnavailable, path + " cannot be written: " + reason);
  }
  return {};
}

}  // namespace tailor::tie
