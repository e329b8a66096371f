#include "launch/model_text.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "base/json_text.h"

namespace tailor::launch {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Empty when there is no such file.
std::optional<std::string> read_file(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::string{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// "bos_token": "<s>" or {"content": "<s>", ...}; empty when absent.
std::string token_of(const json& config, const char* name) {
  const auto it = config.find(name);
  if (it == config.end()) return "";
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object() && it->contains("content") && it->at("content").is_string())
    return it->at("content");
  return "";
}

/// The template's text; empty when the config has none.
Result<std::string> template_of(const json& config, const fs::path& path) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return std::string();
  if (it->is_string()) return it->get<std::string>();
  if (it->is_array()) {
    for (const json& named : *it) {
      const bool fits =
          named.is_object() && named.contains("template") && named.at("template").is_string();
      if (fits && (it->size() == 1 || named.value("name", json()) == "default")) {
        return named.at("template").get<std::string>();
      }
    }
  }
  return fail(
      ErrorCode::kInvalidArgument,
      path.string() + ": chat_template is neither a text nor a list with one named \"default\"");
}

Result<void> compile(const std::string& source, const std::string& bos, const std::string& eos,
                     const std::string& where, ModelText& out) {
  if (source.empty()) return {};
  auto compiled = text::ChatTemplate::compile(source, bos, eos);
  if (!compiled) return fail_with(where, std::move(compiled.error()));
  out.chat_template = std::move(*compiled);
  return {};
}

Result<ModelText> from_gguf(const weights::GgufVocabulary& v, const std::string& path) {
  text::VocabularySpec spec;
  spec.model = v.model;
  spec.pre = v.pre;
  spec.tokens = v.tokens;
  spec.scores = v.scores;
  spec.types = v.types;
  spec.merges = v.merges;
  spec.bos = v.bos;
  spec.eos = v.eos;
  spec.unknown = v.unknown;
  spec.add_bos = v.add_bos;
  spec.add_eos = v.add_eos;
  spec.add_space_prefix = v.add_space_prefix;
  ModelText out;
  auto tokenizer = text::Tokenizer::from_vocabulary(spec);
  if (!tokenizer) return fail_with(path, std::move(tokenizer.error()));
  out.tokenizer = std::move(*tokenizer);
  const auto written = [&](TokenId id) {
    return id >= 0 && static_cast<size_t>(id) < v.tokens.size() ? v.tokens[static_cast<size_t>(id)]
                                                                : std::string();
  };
  TAILOR_TRY(compile(v.chat_template, written(v.bos), written(v.eos), path, out));
  return out;
}

Result<ModelText> from_folder(const fs::path& folder) {
  const fs::path tokenizer_path = folder / "tokenizer.json";
  std::error_code error;
  if (!fs::exists(tokenizer_path, error)) {
    return fail(ErrorCode::kNotFound,
                folder.string() +
                    " has no tokenizer.json, so text cannot become tokens; put the model's "
                    "tokenizer.json (and tokenizer_config.json) there");
  }
  ModelText out;
  TAILOR_ASSIGN(out.tokenizer, text::Tokenizer::from_file(tokenizer_path.string()));

  json config = json::object();
  const fs::path config_path = folder / "tokenizer_config.json";
  if (const auto content = read_file(config_path)) {
    auto parsed = parse_json(*content);
    if (!parsed) return fail_with(config_path.string(), std::move(parsed.error()));
    config = std::move(*parsed);
    if (!config.is_object())
      return fail(ErrorCode::kInvalidArgument, config_path.string() + " is not a JSON object");
  }
  fs::path where = folder / "chat_template.jinja";
  std::string source;
  if (const auto content = read_file(where)) {
    source = *content;
  } else {
    where = config_path;
    TAILOR_ASSIGN(source, template_of(config, config_path));
  }
  TAILOR_TRY(compile(source, token_of(config, "bos_token"), token_of(config, "eos_token"),
                     where.string(), out));
  return out;
}

}  // namespace

Result<ModelText> load_model_text(const weights::WeightFiles& files) {
  ModelText out;
  if (const weights::GgufVocabulary* vocabulary = files.vocabulary()) {
    TAILOR_ASSIGN(out, from_gguf(*vocabulary, files.path()));
  } else {
    fs::path folder = files.path();
    std::error_code error;
    if (!fs::is_directory(folder, error)) folder = folder.parent_path();  // a bare config.json
    TAILOR_ASSIGN(out, from_folder(folder));
  }
  // The wrong tokenizer in a folder is named now, not by wrong answers. Special tokens past the end
  // (a padding token added for training) are harmless: nothing but their own spelling gives them.
  const int64_t rows = files.config().vocab_size;
  for (int64_t id = rows; id < out.tokenizer->vocab_size(); ++id) {
    const auto token = static_cast<TokenId>(id);
    if (out.tokenizer->is_special(token) || out.tokenizer->token_bytes(token).empty()) continue;
    return fail(ErrorCode::kInvalidArgument, files.path() + ": the tokenizer has " +
                                                 std::to_string(out.tokenizer->vocab_size()) +
                                                 " tokens, but the model's vocabulary is " +
                                                 std::to_string(rows));
  }
  return out;
}

}  // namespace tailor::launch
