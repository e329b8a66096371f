#include "text/tokenizer.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "base/json_text.h"
#include "base/utf8.h"
#include "text/rust_buffer.h"

namespace tailor::text {
namespace {

struct FreeTokenizer {
  void operator()(tt_tokenizer* tokenizer) const { tt_tokenizer_free(tokenizer); }
};
using Handle = std::unique_ptr<tt_tokenizer, FreeTokenizer>;

class RustTokenizer final : public Tokenizer {
 public:
  explicit RustTokenizer(Handle handle) : handle_(std::move(handle)) {
    const size_t size = tt_tokenizer_size(handle_.get());
    bytes_.reserve(size);
    special_.reserve(size);
    for (size_t id = 0; id < size; ++id) {
      const tt_str bytes = tt_token_bytes(handle_.get(), static_cast<uint32_t>(id));
      bytes_.emplace_back(bytes.data, bytes.size);
      special_.push_back(tt_token_is_special(handle_.get(), static_cast<uint32_t>(id)));
    }
    strips_leading_space_ = tt_tokenizer_strips_leading_space(handle_.get());
  }

  Result<std::vector<TokenId>> encode(std::string_view text,
                                      bool add_special_tokens) const override {
    return encode(text, /*guarded=*/false, add_special_tokens);
  }
  Result<std::vector<TokenId>> encode_guarded(std::string_view text,
                                              bool add_special_tokens) const override {
    return encode(text, /*guarded=*/true, add_special_tokens);
  }
  Result<std::string> guard(std::string_view text) const override {
    TAILOR_TRY(check_utf8(text));
    RustBuffer guarded, error;
    if (!tt_guard(handle_.get(), to_rust(text), guarded.out(), error.out()))
      return fail(ErrorCode::kInvalidArgument, error.str());
    return guarded.str();
  }

  std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const override {
    std::string bytes;
    for (const TokenId id : ids) {
      if (!(skip_special_tokens && is_special(id))) bytes += token_bytes(id);
    }
    std::string_view view = bytes;
    if (strips_leading_space_ && !view.empty() && view.front() == ' ') view.remove_prefix(1);
    std::string text;
    text.reserve(view.size());
    append_utf8(view, /*at_end=*/true, text);
    return text;
  }

  const std::string& token_bytes(TokenId id) const override {
    return known(id) ? bytes_[id] : nothing_;
  }
  bool is_special(TokenId id) const override { return known(id) && special_[id]; }
  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()); }
  TokenId token_to_id(std::string_view token) const override {
    return static_cast<TokenId>(tt_token_to_id(handle_.get(), to_rust(token)));
  }
  bool strips_leading_space() const override { return strips_leading_space_; }

 private:
  static Result<void> check_utf8(std::string_view text) {
    const size_t bad = find_invalid_utf8(text);
    if (bad == std::string_view::npos) return {};
    return fail(ErrorCode::kInvalidArgument,
                "the text is not UTF-8 at byte " + std::to_string(bad));
  }
  Result<std::vector<TokenId>> encode(std::string_view text, bool guarded,
                                      bool add_special_tokens) const {
    TAILOR_TRY(check_utf8(text));
    RustBuffer ids, error;
    if (!tt_encode(handle_.get(), to_rust(text), guarded, add_special_tokens, ids.out(),
                   error.out())) {
      return fail(ErrorCode::kInvalidArgument, "the text could not be tokenized: " + error.str());
    }
    std::vector<TokenId> out(ids.size() / sizeof(uint32_t));
    static_assert(sizeof(TokenId) == sizeof(uint32_t));
    if (!out.empty()) std::memcpy(out.data(), ids.data(), ids.size());
    return out;
  }
  bool known(TokenId id) const { return id >= 0 && static_cast<size_t>(id) < bytes_.size(); }

  Handle handle_;
  std::vector<std::string> bytes_;
  std::vector<bool> special_;
  std::string nothing_;
  bool strips_leading_space_ = false;
};

std::vector<tt_str> to_rust(const std::vector<std::string>& strings) {
  std::vector<tt_str> out;
  out.reserve(strings.size());
  for (const std::string& s : strings) out.push_back(text::to_rust(std::string_view(s)));
  return out;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_file(const std::string& tokenizer_json) {
  std::error_code error_code;
  const auto size = std::filesystem::file_size(tokenizer_json, error_code);
  if (error_code)
    return fail(ErrorCode::kNotFound,
                "cannot read " + tokenizer_json + ": " + error_code.message());
  std::string json(size, '\0');
  std::ifstream file(tokenizer_json, std::ios::binary);
  if (!file.read(json.data(), static_cast<std::streamsize>(size))) {
    return fail(ErrorCode::kNotFound, "cannot read " + tokenizer_json);
  }
  if (auto shallow = check_json_depth(json); !shallow)
    return fail_with(tokenizer_json, shallow.error());
  RustBuffer error;
  Handle handle(tt_tokenizer_from_json(text::to_rust(std::string_view(json)), error.out()));
  if (!handle) {
    return fail(ErrorCode::kInvalidArgument,
                tokenizer_json + " is not a tokenizer Tailor can use: " + error.str());
  }
  return std::make_shared<const RustTokenizer>(std::move(handle));
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_vocabulary(const VocabularySpec& spec) {
  const std::vector<tt_str> tokens = to_rust(spec.tokens);
  const std::vector<tt_str> merges = to_rust(spec.merges);
  tt_vocabulary v{};
  v.model = text::to_rust(std::string_view(spec.model));
  v.pre = text::to_rust(std::string_view(spec.pre));
  v.tokens = tokens.data();
  v.num_tokens = tokens.size();
  v.scores = spec.scores.data();
  v.num_scores = spec.scores.size();
  v.types = spec.types.data();
  v.num_types = spec.types.size();
  v.merges = merges.data();
  v.num_merges = merges.size();
  v.bos = spec.bos;
  v.eos = spec.eos;
  v.unknown = spec.unknown;
  v.add_bos = spec.add_bos;
  v.add_eos = spec.add_eos;
  v.add_space_prefix = spec.add_space_prefix;
  RustBuffer error;
  Handle handle(tt_tokenizer_from_vocabulary(&v, error.out()));
  if (!handle) return fail(ErrorCode::kInvalidArgument, "vocabulary: " + error.str());
  return std::make_shared<const RustTokenizer>(std::move(handle));
}

}  // namespace tailor::text
