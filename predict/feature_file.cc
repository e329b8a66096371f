#include "predict/feature_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "base/json_text.h"
#include "base/model_stamp.h"

namespace tailor::predict {
namespace {

using nlohmann::json;

constexpr char kMagic[] = "TLFEAT1\n";
constexpr size_t kMagicBytes = 8, kKeyBytes = 16;
constexpr size_t kPendingMax = 1 << 20;
constexpr uint64_t kMaxHidden = 1 << 20, kMaxLayers = 4096;

/// Round to nearest even; what is beyond F16 becomes its largest number.
uint16_t to_half(float value) {
  _Float16 half = static_cast<_Float16>(std::clamp(value, -65504.0f, 65504.0f));
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}
float from_half(uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}

size_t record_bytes(const FeatureHeader& header) {
  return kKeyBytes + 2 * size_t{header.hidden} * header.layers.size();
}

std::string header_bytes(const FeatureHeader& header) {
  const std::string text = json{
      {"model_fingerprint", header.model_fingerprint},
      {"hidden", header.hidden},
      {"layers",
       header.layers}}.dump();
  const auto size = static_cast<uint32_t>(text.size());
  std::string out(kMagic, kMagicBytes);
  out.append(reinterpret_cast<const char*>(&size), sizeof size);
  return out + text;
}

/// Leaves `in` at the first record; gives the header and its bytes.
Result<std::pair<FeatureHeader, size_t>> read_header(std::istream& in, const std::string& path) {
  char magic[kMagicBytes];
  uint32_t size = 0;
  if (!in.read(magic, kMagicBytes) || std::memcmp(magic, kMagic, kMagicBytes) != 0)
    return fail(ErrorCode::kInvalidArgument, path + ": expected a feature file (TLFEAT1)");
  if (!in.read(reinterpret_cast<char*>(&size), sizeof size) || size > (1u << 20))
    return fail(ErrorCode::kInvalidArgument, path + ": the header is damaged");
  std::string text(size, 0);
  in.read(text.data(), size);
  const auto parsed = parse_json(text);
  if (!in || !parsed) return fail(ErrorCode::kInvalidArgument, path + ": the header is damaged");
  const json& value = *parsed;
  try {
    const json &hidden = value.at("hidden"), &layers = value.at("layers");
    const auto is_count = [](const json& number, uint64_t max) {
      return number.is_number_unsigned() && number != 0 && number.get<uint64_t>() <= max;
    };
    const bool good = is_count(hidden, kMaxHidden) && layers.is_array() && !layers.empty() &&
                      layers.size() <= kMaxLayers &&
                      std::all_of(layers.begin(), layers.end(),
                                  [&](const json& layer) { return is_count(layer, kMaxLayers); });
    if (!good) return fail(ErrorCode::kInvalidArgument, path + ": the header is damaged");
    FeatureHeader out{value.at("model_fingerprint").get<std::string>(), hidden.get<uint32_t>(),
                      layers.get<std::vector<int32_t>>()};
    return std::pair(std::move(out), kMagicBytes + sizeof size + size);
  } catch (const json::exception&) {
    return fail(ErrorCode::kInvalidArgument, path + ": the header is damaged");
  }
}

}  // namespace

Result<std::vector<FeatureRecord>> read_features(const std::string& path, int32_t layer,
                                                 FeatureHeader* header) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return fail(ErrorCode::kNotFound, path + ": " + std::strerror(errno));
  TAILOR_ASSIGN(auto head, read_header(in, path));
  const FeatureHeader& h = head.first;
  const auto at = std::find(h.layers.begin(), h.layers.end(), layer);
  if (at == h.layers.end()) {
    std::string known;
    for (int32_t l : h.layers) known += (known.empty() ? "" : ", ") + std::to_string(l);
    return fail(ErrorCode::kInvalidArgument,
                path + ": layer " + std::to_string(layer) + " is not there; layers: " + known);
  }
  const size_t offset = kKeyBytes + 2 * size_t{h.hidden} * (at - h.layers.begin());
  std::vector<char> bytes(record_bytes(h));
  std::vector<FeatureRecord> out;
  while (in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
    FeatureRecord record;
    std::memcpy(&record.prompt, bytes.data(), 8);
    std::memcpy(&record.sample, bytes.data() + 8, 4);
    std::memcpy(&record.generated, bytes.data() + 12, 4);
    record.values.resize(h.hidden);
    for (uint32_t i = 0; i < h.hidden; ++i) {
      uint16_t half;
      std::memcpy(&half, bytes.data() + offset + 2 * i, 2);
      record.values[i] = from_half(half);
    }
    out.push_back(std::move(record));
  }
  const auto key = [](const FeatureRecord& r) {
    return std::tuple(r.prompt, r.sample, r.generated);
  };
  std::stable_sort(out.begin(), out.end(),
                   [&](const auto& a, const auto& b) { return key(a) < key(b); });
  out.erase(std::unique(out.begin(), out.end(),
                        [&](const auto& a, const auto& b) { return key(a) == key(b); }),
            out.end());
  if (header) *header = std::move(head.first);
  return out;
}

Result<FeatureWriter> FeatureWriter::open(const std::string& path, const FeatureHeader& header) {
  const auto unavailable = [&] {
    return fail(ErrorCode::kUnavailable, path + ": cannot be written: " + std::strerror(errno));
  };
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return unavailable();
  FeatureWriter out(fd, path);
  const off_t size = lseek(fd, 0, SEEK_END);
  const std::string wanted = header_bytes(header);
  if (size < static_cast<off_t>(wanted.size())) {
    if (ftruncate(fd, 0) != 0) return unavailable();
    const auto* begin = reinterpret_cast<const std::byte*>(wanted.data());
    out.pending_.assign(begin, begin + wanted.size());
    TAILOR_TRY(out.flush());
    return out;
  }
  std::ifstream in(path, std::ios::binary);
  TAILOR_ASSIGN(const auto found, read_header(in, path));
  if (!stamp_fits(found.first.model_fingerprint, header.model_fingerprint))
    return fail(ErrorCode::kInvalidArgument,
                stamp_misfit(path, found.first.model_fingerprint, header.model_fingerprint));
  if (found.first != header)
    return fail(ErrorCode::kInvalidArgument, path + " holds another collection: other layers");
  const off_t records =
      (size - static_cast<off_t>(found.second)) / static_cast<off_t>(record_bytes(header));
  const off_t whole =
      static_cast<off_t>(found.second) + records * static_cast<off_t>(record_bytes(header));
  if (ftruncate(fd, whole) != 0) return unavailable();
  return out;
}

FeatureWriter::FeatureWriter(FeatureWriter&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      pending_(std::move(other.pending_)) {}

FeatureWriter::~FeatureWriter() {
  if (fd_ < 0) return;
  (void)flush();
  close(fd_);
}

Result<void> FeatureWriter::append(uint64_t prompt, uint32_t sample, uint32_t generated,
                                   std::span<const float> values) {
  const auto put = [&](const void* data, size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    pending_.insert(pending_.end(), begin, begin + size);
  };
  put(&prompt, 8);
  put(&sample, 4);
  put(&generated, 4);
  for (const float value : values) {
    const uint16_t half = to_half(value);
    put(&half, 2);
  }
  if (pending_.size() >= kPendingMax) return flush();
  return {};
}

Result<void> FeatureWriter::flush() {
  lseek(fd_, 0, SEEK_END);
  size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t count = write(fd_, pending_.data() + done, pending_.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0)
      return fail(ErrorCode::kUnavailable, path_ + ": cannot be written: " + std::strerror(errno));
    done += static_cast<size_t>(count);
  }
  pending_.clear();
  return {};
}

}  // namespace tailor::predict
