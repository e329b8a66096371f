#include "launch/model_text.h"

#include <algorithm>
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

/// A chat template before it is compiled, with the tokens that it may write.
struct TemplateSource {
  std::string text, where;  ///< empty text: there is none
  std::string bos, eos;
};

/// Files that a tokenizer is read from, and what else they say.
struct Found {
  std::shared_ptr<const text::Tokenizer> tokenizer;
  Result<TemplateSource> chat_template;
  std::string end_token;  ///< as written; empty = none is named
};

Result<Found> from_gguf(const weights::GgufVocabulary& v, const std::string& path) {
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
  auto tokenizer = text::Tokenizer::from_vocabulary(spec);
  if (!tokenizer) return fail_with(path, std::move(tokenizer.error()));
  const auto written = [&](TokenId id) {
    return id >= 0 && static_cast<size_t>(id) < v.tokens.size() ? v.tokens[static_cast<size_t>(id)]
                                                                : std::string();
  };
  return Found{std::move(*tokenizer),
               TemplateSource{v.chat_template, path, written(v.bos), written(v.eos)}, ""};
}

Result<Found> from_folder(const fs::path& folder) {
  const fs::path tokenizer_path = folder / "tokenizer.json";
  std::error_code error;
  if (!fs::exists(tokenizer_path, error)) {
    return fail(ErrorCode::kNotFound,
                folder.string() +
                    " has no tokenizer.json, so text cannot become tokens; put the model's "
                    "tokenizer.json (and tokenizer_config.json) there");
  }
  Found out;
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
  out.end_token = token_of(config, "eos_token");
  TemplateSource source{"", (folder / "chat_template.jinja").string(),
                        token_of(config, "bos_token"), out.end_token};
  if (const auto content = read_file(source.where)) {
    source.text = *content;
    out.chat_template = std::move(source);
  } else if (auto named = template_of(config, config_path)) {
    source.text = std::move(*named);
    source.where = config_path.string();
    out.chat_template = std::move(source);
  } else {
    out.chat_template = fail(std::move(named.error()));
  }
  return out;
}

Result<std::shared_ptr<const text::ChatTemplate>> compile(const TemplateSource& source) {
  auto compiled = text::ChatTemplate::compile(source.text, source.bos, source.eos);
  if (!compiled) return fail_with(source.where, std::move(compiled.error()));
  return compiled;
}

/// The template of `found`, or why there is none.
void take_own_template(const Found& found, ModelText& out) {
  if (found.chat_template && found.chat_template->text.empty()) {
    out.no_chat = "this model has no chat template";
    return;
  }
  auto compiled =
      found.chat_template ? compile(*found.chat_template) : fail(found.chat_template.error());
  if (compiled) {
    out.chat_template = std::move(*compiled);
  } else {
    out.no_chat = "this model's chat template is broken (" + compiled.error().message + ")";
  }
}

Result<void> take_template_file(const Found& found, const std::string& path, ModelText& out) {
  auto content = read_file(path);
  if (!content) return fail(ErrorCode::kNotFound, "cannot read the chat template " + path);
  TemplateSource source{std::move(*content), path, "", ""};
  if (found.chat_template) {
    source.bos = found.chat_template->bos;
    source.eos = found.chat_template->eos;
  }
  TAILOR_ASSIGN(out.chat_template, compile(source));
  return {};
}

void add_end_token(TokenId token, int64_t vocab_size, ModelText& out) {
  auto& all = out.end_tokens;
  if (token >= 0 && token < vocab_size && std::find(all.begin(), all.end(), token) == all.end())
    all.push_back(token);
}

}  // namespace

std::vector<api::EndToken> written_end_tokens(const ModelText& text) {
  std::vector<api::EndToken> out;
  for (const TokenId token : text.end_tokens)
    out.push_back({token, text.tokenizer->token_bytes(token)});
  return out;
}

std::string end_tokens_text(const std::vector<api::EndToken>& end_tokens) {
  std::string out;
  for (const api::EndToken& end : end_tokens)
    out += (out.empty() ? "" : ", ") + std::to_string(end.token) + " " + end.text;
  return out.empty() ? "none" : out;
}

Result<ModelText> load_model_text(const weights::WeightFiles& files,
                                  const std::string& template_file) {
  fs::path folder = files.path();
  std::error_code error;
  if (!fs::is_directory(folder, error)) folder = folder.parent_path();  // a bare config.json
  TAILOR_ASSIGN(const Found found, files.vocabulary() ? from_gguf(*files.vocabulary(), files.path())
                                                      : from_folder(folder));
  ModelText out;
  out.tokenizer = found.tokenizer;
  if (template_file.empty()) {
    take_own_template(found, out);
  } else {
    TAILOR_TRY(take_template_file(found, template_file, out));
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
  for (const TokenId token : files.config().eos_tokens) add_end_token(token, rows, out);
  if (!found.end_token.empty())
    add_end_token(out.tokenizer->token_to_id(found.end_token), rows, out);
  if (out.chat_template)
    add_end_token(text::turn_end(*out.tokenizer, *out.chat_template), rows, out);
  return out;
}

}  // namespace tailor::launch
