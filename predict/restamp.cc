#include "predict/restamp.h"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/json_text.h"

namespace tailor::predict {
namespace {

using json = nlohmann::ordered_json;  // a header keeps its order

constexpr size_t kMaxHeaderBytes = 1 << 24;
constexpr const char* kField = "model_fingerprint";

/// A file's header as JSON, and where the rest begins.
struct Header {
  enum class Kind { kHead, kFeatures, kLengths, kPackedLengths } kind = Kind::kLengths;
  json value;
  size_t rest = 0;

  json* stamp() {
    json* object = &value;
    if (kind == Kind::kHead) {
      const auto found = value.find("__metadata__");
      if (found == value.end() || !found->is_object()) return nullptr;
      object = &*found;
    }
    const auto found = object->find(kField);
    return found != object->end() && found->is_string() ? &*found : nullptr;
  }

  /// All bytes before the rest.
  std::string bytes() const {
    std::string text = value.dump();
    const auto counted = [&text](auto count) {
      return std::string(reinterpret_cast<const char*>(&count), sizeof count) + text;
    };
    switch (kind) {
      case Kind::kHead:
        text.resize((text.size() + 7) / 8 * 8, ' ');  // the format wants aligned data
        return counted(uint64_t{text.size()});
      case Kind::kFeatures:
        return "TLFEAT1\n" + counted(static_cast<uint32_t>(text.size()));
      default:
        return text + "\n";
    }
  }
};

/// zlib reads plain files as they are, and as far as it is asked.
class Input {
 public:
  explicit Input(const std::string& path) : file_(gzopen(path.c_str(), "rb")) {}
  ~Input() {
    if (file_) gzclose(file_);
  }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  bool is_open() const { return file_ != nullptr; }
  bool is_packed() const { return gzdirect(file_) == 0; }
  /// Up to `count` more bytes.
  std::string read(size_t count) {
    std::string out(count, 0);
    const int got = gzread(file_, out.data(), static_cast<unsigned>(count));
    out.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return out;
  }

 private:
  gzFile file_;
};

template <class Count>
size_t take_count(const std::string& bytes) {
  Count count = 0;
  if (bytes.size() == sizeof count) std::memcpy(&count, bytes.data(), sizeof count);
  return count <= kMaxHeaderBytes ? static_cast<size_t>(count) : 0;
}

Result<Header> read_header(const std::string& path) {
  if (access(path.c_str(), R_OK) != 0)
    return fail(ErrorCode::kNotFound, path + ": " + std::strerror(errno));
  Input input(path);
  if (!input.is_open()) return fail(ErrorCode::kNotFound, path + ": " + std::strerror(errno));
  Header out;
  std::string text, first = input.read(8);
  if (input.is_packed()) out.kind = Header::Kind::kPackedLengths;
  if (path.ends_with(".safetensors")) {
    out.kind = Header::Kind::kHead;
    text = input.read(take_count<uint64_t>(first));
    out.rest = 8 + text.size();
  } else if (first == "TLFEAT1\n") {
    out.kind = Header::Kind::kFeatures;
    text = input.read(take_count<uint32_t>(input.read(4)));
    out.rest = 12 + text.size();
  } else {
    text = first;
    while (text.find('\n') == text.npos && text.size() < kMaxHeaderBytes) {
      const std::string more = input.read(1 << 16);
      if (more.empty()) break;
      text += more;
    }
    text.resize(std::min(text.find('\n'), text.size()));
    out.rest = text.size() + 1;
  }
  if (check_json_depth(text))
    out.value = json::parse(text, nullptr, /*allow_exceptions=*/false);  // in order: tidy: allow
  if (!out.value.is_object() || !out.stamp())
    return fail(ErrorCode::kInvalidArgument,
                path + ": expected a head, a length file or a feature file, whose header has \"" +
                    kField + "\"");
  return out;
}

/// `header` and what is behind the old one in `from`, to `to`.
bool write(const Header& header, const std::string& from, const std::string& to) {
  const std::string bytes = header.bytes();
  if (header.kind != Header::Kind::kPackedLengths) {
    std::ifstream in(from, std::ios::binary);
    in.seekg(static_cast<std::streamoff>(header.rest));
    std::ofstream out(to, std::ios::binary);
    out << bytes;
    if (in.peek() != std::ifstream::traits_type::eof()) out << in.rdbuf();
    out.close();
    return !in.bad() && static_cast<bool>(out);
  }
  Input in(from);
  in.read(header.rest);
  gzFile out = gzopen(to.c_str(), "wb9");
  if (!out) return false;
  bool good = true;
  for (std::string piece = bytes; good && !piece.empty(); piece = in.read(1 << 20))
    good = gzwrite(out, piece.data(), static_cast<unsigned>(piece.size())) > 0;
  return gzclose(out) == Z_OK && good;
}

}  // namespace

Result<std::string> stamp_of(const std::string& path) {
  TAILOR_ASSIGN(Header header, read_header(path));
  return header.stamp()->get<std::string>();
}

Result<bool> restamp(const std::string& path, const std::string& older, const std::string& now) {
  TAILOR_ASSIGN(Header header, read_header(path));
  json& stamp = *header.stamp();
  if (stamp == now) return false;
  if (stamp != older)
    return fail(ErrorCode::kInvalidArgument, path + " was made with another model: it names " +
                                                 stamp.dump() + ", this model is " + now + " (" +
                                                 older + " by the older fingerprint)");
  stamp = now;
  std::error_code ignored;
  const std::string place = std::filesystem::canonical(path, ignored).string();
  const std::string next = place + ".next." + std::to_string(getpid());
  if (!write(header, place, next) || std::rename(next.c_str(), place.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(next.c_str());
    return fail(ErrorCode::kUnavailable, path + ": cannot be written: " + reason);
  }
  return true;
}

}  // namespace tailor::predict
