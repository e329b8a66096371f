#include "parallel/weights/safetensors_file.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "parallel/weights/config_json.h"

namespace tailor::weights {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

// One header entry checked against the data section.
Result<StoredTensor> parse_entry(const std::string& name, const json& entry, DataType type,
                                 std::span<const std::byte> data, const std::string& path) {
  const std::string what = path + ": tensor " + printable(name);
  const auto shape = entry.find("shape"), offsets = entry.find("data_offsets");
  const auto is_size = [](const json& j) {
    return j.is_number_unsigned() && j.get<uint64_t>() <= INT64_MAX;
  };
  if (shape == entry.end() || !shape->is_array() ||
      !std::all_of(shape->begin(), shape->end(), is_size)) {
    return fail(ErrorCode::kDataLoss, what + ": expected \"shape\" to be a list of sizes");
  }
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !std::all_of(offsets->begin(), offsets->end(), is_size)) {
    return fail(ErrorCode::kDataLoss, what + ": expected \"data_offsets\" to be two numbers");
  }
  StoredTensor tensor;
  tensor.name = name;
  tensor.type = type;
  uint64_t values = 1;
  for (const json& size : *shape) {
    tensor.shape.push_back(size.get<int64_t>());
    if (__builtin_mul_overflow(values, size.get<uint64_t>(), &values) || values > INT64_MAX / 8) {
      return fail(ErrorCode::kDataLoss,
                  what + ": its sizes multiply to more than any file can hold");
    }
  }
  tensor.bytes = row_bytes(type, values);
  const uint64_t begin = (*offsets)[0].get<uint64_t>(), end = (*offsets)[1].get<uint64_t>();
  if (begin > end || end - begin != tensor.bytes) {
    return fail(ErrorCode::kDataLoss, what + ": expected " + std::to_string(tensor.bytes) +
                                          " bytes for " + std::string(to_string(type)) + " " +
                                          shape_string(tensor.shape) + ", found offsets " +
                                          std::to_string(begin) + " to " + std::to_string(end));
  }
  if (end > data.size()) {
    return fail(ErrorCode::kDataLoss, what + ": expected data up to byte " + std::to_string(end) +
                                          ", found " + std::to_string(data.size()) +
                                          " (the file is truncated or damaged)");
  }
  if (tensor.bytes > 0) tensor.data = data.data() + begin;
  return tensor;
}

}  // namespace

std::string shape_string(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  TAILOR_ASSIGN(auto file, MappedFile::open(path));
  const auto bytes = file->bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("version https://git-lfs")) {
    return fail(ErrorCode::kInvalidArgument,
                path + " is a Git LFS pointer, not the weights themselves (run git lfs pull)");
  }
  uint64_t header_bytes = 0;
  if (bytes.size() < 8) {
    return fail(ErrorCode::kDataLoss,
                path + ": expected at least 8 bytes, found " + std::to_string(bytes.size()));
  }
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > bytes.size() - 8 || header_bytes > kMaxHeaderBytes) {
    return fail(ErrorCode::kDataLoss,
                path + ": the header is said to be " + std::to_string(header_bytes) +
                    " bytes long, but the file has " + std::to_string(bytes.size() - 8) +
                    " left (truncated, or no safetensors file)");
  }
  const std::string_view head = text.substr(8, header_bytes);
  const json header = json::parse(head, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) {
    return fail(ErrorCode::kDataLoss,
                path + ": the header is not a JSON object (damaged, or no safetensors file)");
  }
  SafetensorsFile out;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.items())
        if (value.is_string()) out.metadata_[key] = value.get<std::string>();
      continue;
    }
    const auto dtype = entry.is_object() ? entry.find("dtype") : entry.end();
    if (!entry.is_object() || dtype == entry.end() || !dtype->is_string()) {
      return fail(ErrorCode::kDataLoss,
                  path + ": tensor " + printable(name) + ": expected a \"dtype\"");
    }
    const auto type = type_of_safetensors(dtype->get_ref<const std::string&>());
    if (!type) {
      out.unreadable_.push_back({name, printable(dtype->get_ref<const std::string&>())});
      continue;
    }
    TAILOR_ASSIGN(StoredTensor tensor,
                  parse_entry(name, entry, *type, bytes.subspan(8 + header_bytes), path));
    out.tensors_.push_back(std::move(tensor));
  }
  out.file_ = std::move(file);
  return out;
}

Result<std::vector<SafetensorsFile>> open_safetensors_folder(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<SafetensorsFile> files;
  const std::string index_path = folder + "/model.safetensors.index.json";
  std::error_code ignored;
  if (!fs::exists(index_path, ignored)) {
    const std::string single = folder + "/model.safetensors";
    if (!fs::exists(single, ignored)) {
      return fail(ErrorCode::kNotFound, folder +
                                            " holds neither model.safetensors nor "
                                            "model.safetensors.index.json (pytorch_model.bin "
                                            "must be converted to safetensors first)");
    }
    TAILOR_ASSIGN(SafetensorsFile file, SafetensorsFile::open(single));
    files.push_back(std::move(file));
    return files;
  }
  TAILOR_ASSIGN(const json index, load_json_object(index_path));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    return fail(ErrorCode::kDataLoss, index_path + ": expected an object \"weight_map\"");
  }
  std::map<std::string, std::vector<std::string>> tensors_by_shard;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (name.empty() || name.find('/') != std::string::npos) {
      return fail(ErrorCode::kDataLoss, index_path + ": tensor " + printable(tensor) +
                                            ": expected a file name in the same folder, found \"" +
                                            printable(name) + "\"");
    }
    tensors_by_shard[name].push_back(tensor);
  }
  for (const auto& [shard, expected] : tensors_by_shard) {
    TAILOR_ASSIGN(SafetensorsFile file, SafetensorsFile::open(folder + "/" + shard));
    std::set<std::string> found;
    for (const StoredTensor& tensor : file.tensors()) found.insert(tensor.name);
    for (const auto& tensor : file.unreadable()) found.insert(tensor.name);
    for (const std::string& tensor : expected) {
      if (!found.count(tensor)) {
        return fail(ErrorCode::kDataLoss, file.path() + ": tensor " + printable(tensor) +
                                              " is missing, though " + index_path +
                                              " names this file for it");
      }
    }
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace tailor::weights
