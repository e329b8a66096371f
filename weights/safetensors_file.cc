#include "weights/safetensors_file.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/json_text.h"
#include "weights/config_json.h"

namespace tailor::weights {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

bool is_size(const json& j) { return j.is_number_unsigned() && j.get<uint64_t>() <= INT64_MAX; }

/// Where an entry's bytes lie in the data section.
struct Place {
  uint64_t begin = 0, end = 0;
  std::string name;
};

Result<Place> parse_place(const std::string& name, const json& entry, uint64_t data_bytes,
                          const std::string& what) {
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !std::all_of(offsets->begin(), offsets->end(), is_size)) {
    return fail(ErrorCode::kDataLoss, what + ": expected \"data_offsets\" to be two numbers");
  }
  Place out{(*offsets)[0].get<uint64_t>(), (*offsets)[1].get<uint64_t>(), name};
  if (out.begin > out.end) {
    return fail(ErrorCode::kDataLoss, what + ": expected an end behind the beginning " +
                                          std::to_string(out.begin) + ", found " +
                                          std::to_string(out.end));
  }
  if (out.end > data_bytes) {
    return fail(ErrorCode::kDataLoss,
                what + ": expected data up to byte " + std::to_string(out.end) + ", found " +
                    std::to_string(data_bytes) + " (the file is truncated or damaged)");
  }
  return out;
}

// One header entry checked against its place in the data section.
Result<StoredTensor> parse_entry(const Place& place, const json& entry, DataType type,
                                 std::span<const std::byte> data, const std::string& what) {
  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array() ||
      !std::all_of(shape->begin(), shape->end(), is_size)) {
    return fail(ErrorCode::kDataLoss, what + ": expected \"shape\" to be a list of sizes");
  }
  StoredTensor tensor;
  tensor.name = place.name;
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
  if (place.end - place.begin != tensor.bytes) {
    return fail(ErrorCode::kDataLoss, what + ": expected " + std::to_string(tensor.bytes) +
                                          " bytes for " + std::string(to_string(type)) + " " +
                                          shape_string(tensor.shape) + ", found offsets " +
                                          std::to_string(place.begin) + " to " +
                                          std::to_string(place.end));
  }
  if (tensor.bytes > 0) tensor.data = data.data() + place.begin;
  return tensor;
}

/// Every byte of the data belongs to one tensor.
Result<void> check_tiling(std::vector<Place> places, uint64_t data_bytes, const std::string& path) {
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const auto damaged = [&](const std::string& what) {
    return fail(ErrorCode::kDataLoss, path + ": " + what);
  };
  uint64_t at = 0;
  const Place* before = nullptr;
  for (const Place& place : places) {
    if (place.begin < at && place.end > place.begin) {
      return damaged("tensors " + printable(before->name) + " and " + printable(place.name) +
                     " overlap at byte " + std::to_string(place.begin) + " of the data");
    }
    if (place.begin > at) {
      return damaged("bytes " + std::to_string(at) + " to " + std::to_string(place.begin) +
                     " of the data belong to no tensor");
    }
    if (place.end > at) at = place.end, before = &place;
  }
  if (at == data_bytes) return {};
  return damaged("expected the data to end with its last tensor at byte " + std::to_string(at) +
                 ", found " + std::to_string(data_bytes - at) + " more bytes");
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
  const auto parsed = parse_json(head);
  if (!parsed) return fail(ErrorCode::kDataLoss, path + ": the header: " + parsed.error().message);
  const json& header = *parsed;
  if (!header.is_object()) {
    return fail(ErrorCode::kDataLoss,
                path + ": the header is not a JSON object (damaged, or no safetensors file)");
  }
  const auto data = bytes.subspan(8 + header_bytes);
  SafetensorsFile out;
  std::vector<Place> places;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.items())
        if (value.is_string()) out.metadata_[key] = value.get<std::string>();
      continue;
    }
    const std::string what = path + ": tensor " + printable(name);
    const auto dtype = entry.is_object() ? entry.find("dtype") : entry.end();
    if (!entry.is_object() || dtype == entry.end() || !dtype->is_string())
      return fail(ErrorCode::kDataLoss, what + ": expected a \"dtype\"");
    TAILOR_ASSIGN(Place place, parse_place(name, entry, data.size(), what));
    if (const auto type = type_of_safetensors(dtype->get_ref<const std::string&>())) {
      TAILOR_ASSIGN(StoredTensor tensor, parse_entry(place, entry, *type, data, what));
      out.tensors_.push_back(std::move(tensor));
    } else {
      out.unreadable_.push_back({name, printable(dtype->get_ref<const std::string&>())});
    }
    places.push_back(std::move(place));
  }
  TAILOR_TRY(check_tiling(std::move(places), data.size(), path));
  out.file_ = std::move(file);
  return out;
}

void SafetensorsFile::leave_out(const std::set<std::string>& names) {
  const auto named = [&](const auto& tensor) { return names.count(tensor.name) > 0; };
  std::erase_if(tensors_, named);
  std::erase_if(unreadable_, named);
}

std::string some_names(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  std::string out;
  for (size_t i = 0; i < names.size() && i < kShown; ++i)
    out += (i > 0 ? ", " : "") + printable(names[i]);
  if (names.size() > kShown) out += " and " + std::to_string(names.size() - kShown) + " more";
  return out;
}

Result<std::vector<SafetensorsFile>> open_safetensors_folder(const std::string& folder,
                                                             std::vector<std::string>* remarks) {
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
  std::map<std::string, std::string> shard_of;
  std::map<std::string, std::vector<std::string>> tensors_by_shard;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (name.empty() || name.find('/') != std::string::npos) {
      return fail(ErrorCode::kDataLoss, index_path + ": tensor " + printable(tensor) +
                                            ": expected a file name in the same folder, found \"" +
                                            printable(name) + "\"");
    }
    shard_of[tensor] = name;
    tensors_by_shard[name].push_back(tensor);
  }
  std::vector<std::string> copies;
  for (const auto& [shard, expected] : tensors_by_shard) {
    TAILOR_ASSIGN(SafetensorsFile file, SafetensorsFile::open(folder + "/" + shard));
    std::set<std::string> found, elsewhere;
    for (const StoredTensor& tensor : file.tensors()) found.insert(tensor.name);
    for (const auto& tensor : file.unreadable()) found.insert(tensor.name);
    for (const std::string& tensor : expected) {
      if (!found.count(tensor)) {
        return fail(ErrorCode::kDataLoss, file.path() + ": tensor " + printable(tensor) +
                                              " is missing, though " + index_path +
                                              " names this file for it");
      }
    }
    for (const std::string& tensor : found) {
      const auto [home, unnamed] = shard_of.emplace(tensor, shard);
      if (home->second == shard) continue;
      if (!map->contains(tensor)) {
        return fail(ErrorCode::kDataLoss, file.path() + ": tensor " + printable(tensor) +
                                              " is in " + home->second + " too, and " + index_path +
                                              " does not say which of them counts");
      }
      elsewhere.insert(tensor);
      copies.push_back(tensor + " in " + shard);
    }
    file.leave_out(elsewhere);
    files.push_back(std::move(file));
  }
  if (!remarks) return files;
  if (!copies.empty()) {
    remarks->push_back(index_path + " names other files for " + some_names(copies) +
                       ": these copies are not used");
  }
  if (!tensors_by_shard.count("model.safetensors") &&
      fs::exists(folder + "/model.safetensors", ignored)) {
    remarks->push_back(folder + "/model.safetensors is not used: " + index_path +
                       " names other files");
  }
  return files;
}

}  // namespace tailor::weights
