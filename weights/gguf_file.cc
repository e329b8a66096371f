#include "weights/gguf_file.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace tailor::weights {
namespace {

// Numbers of the metadata value types in the file.
enum ValueType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kNumTypes
};
constexpr uint64_t kFixedSize[kNumTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
constexpr uint64_t kMaxDimensions = 4;

bool is_float(uint32_t type) { return type == kF32 || type == kF64; }

}  // namespace

// Walks the head of the file once. `position_` never passes the end: every read asks need() first.
class GgufParser {
 public:
  explicit GgufParser(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {}

  Result<GgufFile> parse() {
    TAILOR_TRY(header());
    for (uint64_t i = 0; i < num_values_; ++i) TAILOR_TRY(metadata_entry(i));
    TAILOR_TRY(check_metadata());
    for (uint64_t i = 0; i < num_tensors_; ++i) TAILOR_TRY(tensor_entry(i));
    TAILOR_TRY(place_tensors());
    result_.file_ = file_;
    return std::move(result_);
  }

 private:
  uint64_t left() const { return file_->bytes().size() - position_; }

  Unexpected damaged(const std::string& what) const {
    return fail(ErrorCode::kDataLoss, file_->path() + ": " + what);
  }

  Result<void> need(uint64_t bytes, const std::string& what) const {
    if (bytes <= left()) return {};
    return damaged(what + " is cut off: expected " + std::to_string(bytes) +
                   " more bytes at offset " + std::to_string(position_) + ", found " +
                   std::to_string(left()));
  }

  template <class T>
  T take() {
    T value;
    std::memcpy(&value, file_->bytes().data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }

  template <class T>
  Result<T> number(const std::string& what) {
    TAILOR_TRY(need(sizeof(T), what));
    return take<T>();
  }

  Result<std::string> string(const std::string& what) {
    TAILOR_ASSIGN(const uint64_t length, number<uint64_t>(what));
    TAILOR_TRY(need(length, what));
    std::string out(reinterpret_cast<const char*>(file_->bytes().data() + position_), length);
    position_ += length;
    return out;
  }

  Result<void> header() {
    TAILOR_TRY(need(4, "the magic number"));
    if (std::memcmp(file_->bytes().data(), "GGUF", 4) != 0) {
      const bool pointer =
          file_->bytes().size() > 8 && std::memcmp(file_->bytes().data(), "version ", 8) == 0;
      return fail(ErrorCode::kInvalidArgument,
                  file_->path() +
                      (pointer ? " is a Git LFS pointer, not the model itself (run git lfs pull)"
                               : " is no GGUF file: its first four bytes are not \"GGUF\""));
    }
    position_ = 4;
    TAILOR_ASSIGN(const uint32_t version, number<uint32_t>("the version"));
    if (version != 2 && version != 3) {
      const bool swapped = version == 0x02000000u || version == 0x03000000u;
      return fail(ErrorCode::kInvalidArgument,
                  file_->path() + (swapped ? ": big-endian GGUF files are not supported"
                                           : ": expected GGUF version 2 or 3, found " +
                                                 std::to_string(version)));
    }
    TAILOR_ASSIGN(num_tensors_, number<uint64_t>("the tensor count"));
    TAILOR_ASSIGN(num_values_, number<uint64_t>("the metadata count"));
    // An entry takes at least 13 (metadata) or 24 bytes (tensor): a larger count is damage, and is
    // refused before anything is allocated for it.
    if (num_values_ > left() / 13 || num_tensors_ > left() / 24) {
      return damaged("the header names " + std::to_string(num_tensors_) + " tensors and " +
                     std::to_string(num_values_) + " metadata entries, which " +
                     std::to_string(file_->bytes().size()) + " bytes cannot hold");
    }
    return {};
  }

  int64_t take_integer(uint32_t type) {
    switch (type) {
      case kU8:
        return take<uint8_t>();
      case kI8:
        return take<int8_t>();
      case kU16:
        return take<uint16_t>();
      case kI16:
        return take<int16_t>();
      case kU32:
        return take<uint32_t>();
      case kI32:
        return take<int32_t>();
      case kBool:
        return take<uint8_t>() != 0;
      case kU64:
        return static_cast<int64_t>(std::min<uint64_t>(take<uint64_t>(), INT64_MAX));
      default:
        return take<int64_t>();
    }
  }

  double take_float(uint32_t type) { return type == kF32 ? take<float>() : take<double>(); }

  Result<GgufValue> array(const std::string& what) {
    TAILOR_ASSIGN(const uint32_t type, number<uint32_t>(what));
    TAILOR_ASSIGN(const uint64_t count, number<uint64_t>(what));
    if (type >= kNumTypes || type == kArray) {
      return damaged(what + ": expected an array of numbers or strings, found element type " +
                     std::to_string(type));
    }
    const uint64_t smallest = type == kString ? 8 : kFixedSize[type];
    if (count > left() / smallest) {
      return damaged(what + " is cut off: expected " + std::to_string(count) + " elements, found " +
                     std::to_string(left()) + " bytes");
    }
    if (type == kString) {
      std::vector<std::string> out;
      out.reserve(count);
      for (uint64_t i = 0; i < count; ++i) {
        TAILOR_ASSIGN(std::string value, string(what));
        out.push_back(std::move(value));
      }
      return GgufValue(std::move(out));
    }
    if (is_float(type)) {
      std::vector<double> out(count);
      for (double& v : out) v = take_float(type);
      return GgufValue(std::move(out));
    }
    std::vector<int64_t> out(count);
    for (int64_t& v : out) v = take_integer(type);
    return GgufValue(std::move(out));
  }

  Result<void> metadata_entry(uint64_t index) {
    TAILOR_ASSIGN(std::string key, string("metadata key " + std::to_string(index)));
    const std::string what = "metadata " + printable(key);
    TAILOR_ASSIGN(const uint32_t type, number<uint32_t>(what));
    if (type >= kNumTypes) {
      return damaged(what + ": expected a value type below 13, found " + std::to_string(type));
    }
    GgufValue value;
    if (type == kString) {
      TAILOR_ASSIGN(value, string(what));
    } else if (type == kArray) {
      TAILOR_ASSIGN(value, array(what));
    } else {
      TAILOR_TRY(need(kFixedSize[type], what));
      if (type == kBool) {
        value = take_integer(type) != 0;
      } else if (is_float(type)) {
        value = take_float(type);
      } else {
        value = take_integer(type);
      }
    }
    if (!result_.metadata_.emplace(std::move(key), std::move(value)).second) {
      return damaged(what + " appears twice");
    }
    return {};
  }

  Result<void> check_metadata() {
    if (const double parts = result_.number("split.count").value_or(1); parts > 1) {
      return fail(
          ErrorCode::kInvalidArgument,
          file_->path() +
              " is one part of a split GGUF model; expected one file (merge the parts first)");
    }
    const double alignment = result_.number("general.alignment").value_or(32);
    if (!(alignment >= 1 && alignment <= 1 << 20)) {
      return damaged("general.alignment: expected 1 to 1048576, found " +
                     std::to_string(alignment));
    }
    alignment_ = static_cast<uint64_t>(alignment);
    return {};
  }

  Result<void> tensor_entry(uint64_t index) {
    TAILOR_ASSIGN(std::string name, string("the name of tensor " + std::to_string(index)));
    const std::string what = "tensor " + printable(name);
    TAILOR_ASSIGN(const uint32_t dimensions, number<uint32_t>(what));
    if (dimensions == 0 || dimensions > kMaxDimensions) {
      return damaged(what + ": expected 1 to 4 dimensions, found " + std::to_string(dimensions));
    }
    StoredTensor tensor;
    uint64_t values = 1;
    for (uint32_t d = 0; d < dimensions; ++d) {
      TAILOR_ASSIGN(const uint64_t size, number<uint64_t>(what));
      if (size > INT64_MAX || __builtin_mul_overflow(values, size, &values) ||
          values > INT64_MAX / 8) {
        return damaged(what + ": its sizes multiply to more than any file can hold");
      }
      tensor.shape.insert(tensor.shape.begin(),
                          static_cast<int64_t>(size));  // the file counts from the inside
    }
    TAILOR_ASSIGN(const uint32_t type, number<uint32_t>(what));
    TAILOR_ASSIGN(const uint64_t offset, number<uint64_t>(what));
    const auto known = type_of_ggml(type);
    if (!known) {
      return fail(ErrorCode::kInvalidArgument,
                  file_->path() + ": " + what +
                      ": expected type F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, "
                      "Q4_K, Q5_K or Q6_K, found ggml type number " +
                      std::to_string(type));
    }
    tensor.type = *known;
    const int64_t block = block_values(*known);
    if (tensor.shape.back() % block != 0) {
      return damaged(what + ": expected rows of a multiple of " + std::to_string(block) +
                     " values for " + std::string(to_string(*known)) + ", found " +
                     std::to_string(tensor.shape.back()));
    }
    tensor.bytes = row_bytes(*known, values);
    tensor.name = std::move(name);
    if (!names_.insert(tensor.name).second) return damaged(what + " appears twice");
    offsets_.push_back(offset);
    result_.tensors_.push_back(std::move(tensor));
    return {};
  }

  // Offsets count from the first aligned byte after the directory.
  Result<void> place_tensors() {
    const uint64_t size = file_->bytes().size();
    const uint64_t start = (position_ + alignment_ - 1) / alignment_ * alignment_;
    for (size_t i = 0; i < offsets_.size(); ++i) {
      StoredTensor& tensor = result_.tensors_[i];
      const uint64_t available =
          start <= size && offsets_[i] <= size - start ? size - start - offsets_[i] : 0;
      if (tensor.bytes > available) {
        return damaged("tensor " + printable(tensor.name) + ": expected " +
                       std::to_string(tensor.bytes) + " bytes at data offset " +
                       std::to_string(offsets_[i]) + ", found " + std::to_string(available) +
                       " (the file is truncated or damaged)");
      }
      if (tensor.bytes == 0) continue;
      if (offsets_[i] % alignment_ != 0) {
        return damaged("tensor " + printable(tensor.name) +
                       ": expected an offset that is a multiple of " + std::to_string(alignment_) +
                       ", found " + std::to_string(offsets_[i]));
      }
      tensor.data = file_->bytes().data() + start + offsets_[i];
    }
    return check_overlaps(start);
  }

  /// Also finds the end of the last tensor.
  Result<void> check_overlaps(uint64_t start) {
    std::vector<const StoredTensor*> placed;
    for (const StoredTensor& tensor : result_.tensors_)
      if (tensor.data) placed.push_back(&tensor);
    std::sort(placed.begin(), placed.end(),
              [](const auto* a, const auto* b) { return a->data < b->data; });
    for (size_t i = 1; i < placed.size(); ++i) {
      if (placed[i - 1]->data + placed[i - 1]->bytes <= placed[i]->data) continue;
      return damaged("tensors " + printable(placed[i - 1]->name) + " and " +
                     printable(placed[i]->name) + " overlap");
    }
    const std::byte* begin = file_->bytes().data();
    uint64_t end = start;
    if (!placed.empty())
      end = static_cast<uint64_t>(placed.back()->data + placed.back()->bytes - begin);
    end = (end + alignment_ - 1) / alignment_ * alignment_;
    const uint64_t size = file_->bytes().size();
    result_.trailing_bytes_ = size > end ? size - end : 0;
    return {};
  }

  std::shared_ptr<const MappedFile> file_;
  uint64_t position_ = 0;
  uint64_t num_tensors_ = 0, num_values_ = 0, alignment_ = 32;
  std::vector<uint64_t> offsets_;
  std::set<std::string> names_;
  GgufFile result_;
};

Result<GgufFile> GgufFile::open(const std::string& path) {
  TAILOR_ASSIGN(auto file, MappedFile::open(path));
  return GgufParser(std::move(file)).parse();
}

std::optional<double> GgufFile::number(const std::string& key) const {
  if (const auto* integer = find<int64_t>(key)) return static_cast<double>(*integer);
  if (const auto* real = find<double>(key)) return *real;
  return std::nullopt;
}

}  // namespace tailor::weights
