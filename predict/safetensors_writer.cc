#include "predict/safetensors_writer.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

namespace tailor::predict {

void SafetensorsWriter::add(const std::string& name, const std::vector<int64_t>& shape,
                            std::span<const float> values) {
  add_bytes(name, "F32", shape, values.data(), values.size_bytes());
}

void SafetensorsWriter::add_half(const std::string& name, const std::vector<int64_t>& shape,
                                 std::span<const uint16_t> bits) {
  add_bytes(name, "F16", shape, bits.data(), bits.size_bytes());
}

void SafetensorsWriter::add_bytes(const std::string& name, const char* type,
                                  const std::vector<int64_t>& shape, const void* bytes,
                                  size_t count) {
  const size_t begin = data_.size();
  data_.append(static_cast<const char*>(bytes), count);
  entries_.push_back({name, type, shape, begin, data_.size()});
}

Result<void> SafetensorsWriter::write(const std::string& path) const {
  nlohmann::json header;
  for (const auto& [key, text] : metadata_) header["__metadata__"][key] = text;
  for (const Entry& entry : entries_)
    header[entry.name] = {
        {"dtype", entry.type}, {"shape", entry.shape}, {"data_offsets", {entry.begin, entry.end}}};
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

}  // namespace tailor::predict
