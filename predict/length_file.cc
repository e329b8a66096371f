#include "predict/length_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/json_text.h"
#include "base/model_stamp.h"

namespace tailor::predict {
namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "tailor-lengths-1";

/// zlib reads plain files as they are.
Result<std::string> read_all(const std::string& path) {
  if (access(path.c_str(), R_OK) != 0)
    return fail(ErrorCode::kNotFound, path + ": " + std::strerror(errno));
  gzFile file = gzopen(path.c_str(), "rb");
  if (!file) return fail(ErrorCode::kNotFound, path + ": " + std::strerror(errno));
  std::string out;
  char buffer[1 << 16];
  int count = 0;
  while ((count = gzread(file, buffer, sizeof buffer)) > 0) out.append(buffer, count);
  const bool whole = count == 0;
  gzclose(file);
  if (!whole) return fail(ErrorCode::kInvalidArgument, path + ": the gzip stream is damaged");
  return out;
}

/// Calls `take(number, line)` for every whole line that is not blank, numbers from 1.
template <typename Take>
Result<void> each_line(const std::string& path, const std::string& text, const Take& take) {
  size_t begin = 0, number = 0;
  while (begin < text.size()) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn
    ++number;
    const std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = path + ", line " + std::to_string(number) + ": ";
    auto parsed = parse_json(line);
    if (!parsed) return fail(ErrorCode::kInvalidArgument, where + parsed.error().message);
    json& value = *parsed;
    if (!value.is_object())
      return fail(ErrorCode::kInvalidArgument, where + "expected a JSON object");
    try {
      TAILOR_TRY(take(number, value, where));
    } catch (const json::exception& error) {
      return fail(ErrorCode::kInvalidArgument, where + error.what());
    }
  }
  return {};
}

/// A count of the object; 0 where it is absent.
Result<uint32_t> count_of(const json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) return 0u;
  if (!found->is_number_unsigned() || found->get<uint64_t>() > UINT32_MAX)
    return fail(
        ErrorCode::kInvalidArgument,
        where + key + " must be a whole number from 0 to 4294967295, found " + found->dump());
  return found->get<uint32_t>();
}

Result<void> read_header(const json& value, const std::string& where, LengthFile& out) {
  if (value.value("format", "") != kFormat)
    return fail(ErrorCode::kInvalidArgument,
                where + "expected \"format\": \"" + std::string(kFormat) + "\", found " +
                    (value.contains("format") ? value["format"].dump() : "none"));
  out.model = value.value("model", "");
  out.model_fingerprint = value.value("model_fingerprint", "");
  out.arithmetic = value.value("arithmetic", "");
  TAILOR_ASSIGN(out.samples, count_of(value, "samples", where));
  const json sampling = value.value("sampling", json::object());
  out.temperature = sampling.value("temperature", 1.0);
  out.top_k = sampling.value("top_k", 0);
  out.top_p = sampling.value("top_p", 1.0);
  out.min_p = sampling.value("min_p", 0.0);
  TAILOR_ASSIGN(out.max_tokens, count_of(sampling, "max_tokens", where));
  out.seed = sampling.value("seed", uint64_t{0});
  return {};
}

Result<PromptLengths> read_prompt(const json& value, const std::string& where) {
  PromptLengths out;
  out.id = value.at("id").get<std::string>();
  TAILOR_ASSIGN(out.prompt_tokens, count_of(value, "prompt_tokens", where));
  for (const json& length : value.at("lengths")) {
    if (!length.is_number_unsigned() || length == 0 || length.get<uint64_t>() > UINT32_MAX)
      return fail(
          ErrorCode::kInvalidArgument,
          where + "lengths must be whole numbers from 1 to 4294967295, found " + length.dump());
    out.lengths.push_back(length.get<uint32_t>());
  }
  out.censored.assign(out.lengths.size(), false);
  if (!value.contains("finish")) return out;
  const json& finish = value["finish"];
  if (!finish.is_array() || finish.size() != out.lengths.size())
    return fail(ErrorCode::kInvalidArgument, where + "expected one finish reason for each of " +
                                                 std::to_string(out.lengths.size()) +
                                                 " lengths, found " + finish.dump());
  for (size_t i = 0; i < finish.size(); ++i) out.censored[i] = finish[i] == "length";
  return out;
}

json header_json(const LengthFile& header) {
  return {{"format", kFormat},
          {"model", header.model},
          {"model_fingerprint", header.model_fingerprint},
          {"arithmetic", header.arithmetic},
          {"sampling",
           {{"temperature", header.temperature},
            {"top_k", header.top_k},
            {"top_p", header.top_p},
            {"min_p", header.min_p},
            {"max_tokens", header.max_tokens},
            {"seed", header.seed}}},
          {"samples", header.samples}};
}

Result<void> write_line(int fd, const std::string& path, const std::string& line) {
  const off_t begin = lseek(fd, 0, SEEK_END);
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t count = write(fd, line.data() + done, line.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const std::string reason = std::strerror(errno);
      if (begin >= 0 && ftruncate(fd, begin) != 0) {  // the reader leaves a torn line out
      }
      return fail(ErrorCode::kUnavailable, path + ": cannot be written: " + reason);
    }
    done += static_cast<size_t>(count);
  }
  if (fdatasync(fd) != 0 && errno != EINVAL && errno != EROFS)
    return fail(ErrorCode::kUnavailable, path + ": cannot be kept: " + std::strerror(errno));
  return {};
}

}  // namespace

Result<LengthFile> read_length_file(const std::string& path) {
  TAILOR_ASSIGN(const std::string text, read_all(path));
  LengthFile out;
  bool header = false;
  TAILOR_TRY(each_line(path, text,
                       [&](size_t, const json& value, const std::string& where) -> Result<void> {
                         if (!header) {
                           header = true;
                           return read_header(value, where, out);
                         }
                         TAILOR_ASSIGN(PromptLengths prompt, read_prompt(value, where));
                         out.prompts.push_back(std::move(prompt));
                         return {};
                       }));
  if (!header)
    return fail(ErrorCode::kInvalidArgument, path + ": expected a header line with \"format\": \"" +
                                                 std::string(kFormat) + "\", found no whole line");
  return out;
}

Result<std::vector<PromptText>> read_prompts_file(const std::string& path) {
  TAILOR_ASSIGN(const std::string text, read_all(path));
  std::vector<PromptText> out;
  TAILOR_TRY(each_line(
      path, text.empty() || text.back() == '\n' ? text : text + "\n",
      [&](size_t, const json& value, const std::string&) -> Result<void> {
        out.push_back({value.at("id").get<std::string>(), value.at("text").get<std::string>()});
        return {};
      }));
  return out;
}

Result<LengthWriter> LengthWriter::open(const std::string& path, const LengthFile& header) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0)
    return fail(ErrorCode::kUnavailable, path + ": cannot be written: " + std::strerror(errno));
  LengthWriter out(fd, path);
  TAILOR_ASSIGN(const std::string text, read_all(path));
  const size_t last = text.rfind('\n');
  const off_t whole = last == std::string::npos ? 0 : static_cast<off_t>(last + 1);
  if (whole == 0) {
    if (ftruncate(fd, 0) != 0)
      return fail(ErrorCode::kUnavailable, path + ": cannot be cut: " + std::strerror(errno));
    TAILOR_TRY(write_line(fd, path, header_json(header).dump() + "\n"));
    return out;
  }
  TAILOR_ASSIGN(LengthFile there, read_length_file(path));
  const json found = header_json(there), wanted = header_json(header);
  if (is_sampled_stamp(there.model_fingerprint) &&
      there.model_fingerprint != header.model_fingerprint)
    return fail(ErrorCode::kInvalidArgument,
                stamp_misfit(path, there.model_fingerprint, header.model_fingerprint));
  for (const auto& [key, value] : wanted.items())
    if (found[key] != value)
      return fail(ErrorCode::kInvalidArgument, path + " holds another collection: " + key +
                                                   " there is " + found[key].dump() +
                                                   ", asked for " + value.dump());
  if (ftruncate(fd, whole) != 0)
    return fail(ErrorCode::kUnavailable, path + ": cannot be cut: " + std::strerror(errno));
  out.done_ = std::move(there.prompts);
  return out;
}

LengthWriter::LengthWriter(LengthWriter&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      done_(std::move(other.done_)) {}

LengthWriter& LengthWriter::operator=(LengthWriter&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(done_, other.done_);
  return *this;
}

LengthWriter::~LengthWriter() {
  if (fd_ >= 0) close(fd_);
}

Result<void> LengthWriter::append(const PromptLengths& prompt) {
  json finish = json::array();
  for (const bool cut : prompt.censored) finish.push_back(cut ? "length" : "stop");
  const json line = {{"id", prompt.id},
                     {"prompt_tokens", prompt.prompt_tokens},
                     {"lengths", prompt.lengths},
                     {"finish", finish}};
  return write_line(fd_, path_, line.dump() + "\n");
}

uint64_t id_hash(std::string_view id) {
  uint64_t hash = 14695981039346656037ull;
  for (const char c : id) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  hash += 0x9e3779b97f4a7c15ull;
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9ull;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebull;
  return hash ^ (hash >> 31);
}

Split split_of(std::string_view id) {
  const uint64_t part = id_hash(id) % 100;
  return part < 60 ? Split::kTrain : part < 80 ? Split::kValidation : Split::kTest;
}

}  // namespace tailor::predict
