// Reads the fixtures of tests/text: vocabularies in the form of tools/convert_tokenizers.py,
// llama.cpp's vectors, and what `transformers` said (tools/make_text_fixtures.py).
#pragma once

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace tailor::text {

inline std::string fixture(const std::string& path) {
  return TAILOR_SOURCE_DIR "/tests/fixtures/" + path;
}

inline std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline nlohmann::json read_json(const std::string& path) {
  return nlohmann::json::parse(read_all(path));
}

struct VocabularyFile {
  VocabularySpec spec;
  std::string chat_template;
};

inline VocabularyFile read_vocabulary(const std::string& path) {
  const nlohmann::json j = read_json(path);
  VocabularyFile file;
  VocabularySpec& spec = file.spec;
  spec.model = j.at("model");
  spec.pre = j.at("pre");
  spec.bos = j.at("bos");
  spec.eos = j.at("eos");
  spec.unknown = j.at("unknown");
  spec.add_bos = j.at("add_bos");
  spec.add_eos = j.at("add_eos");
  spec.add_space_prefix = j.at("add_space_prefix");
  file.chat_template = j.at("chat_template");
  spec.merges = j.at("merges").get<std::vector<std::string>>();
  spec.tokens = j.at("head").get<std::vector<std::string>>();
  if (j.contains("tokens")) {
    for (const auto& token : j.at("tokens")) spec.tokens.push_back(token);
  } else {
    for (std::string merge : spec.merges) spec.tokens.push_back(merge.erase(merge.find(' '), 1));
  }
  for (const auto& token : j.at("tail")) spec.tokens.push_back(token);
  spec.types.assign(spec.tokens.size(), 1);
  for (const auto& run : j.at("types")) {
    for (size_t id = run.at(0); id <= run.at(1).get<size_t>(); ++id) spec.types.at(id) = run.at(2);
  }
  spec.scores = j.at("scores").get<std::vector<float>>();
  while (!spec.scores.empty() && spec.scores.size() < spec.tokens.size())
    spec.scores.push_back(spec.scores.back() - 1);
  return file;
}

inline std::shared_ptr<const Tokenizer> must(Result<std::shared_ptr<const Tokenizer>> tokenizer) {
  if (!tokenizer) throw std::runtime_error(to_string(tokenizer.error()));
  return *tokenizer;
}

/// SmolLM2's vocabulary, the default model's.
inline const VocabularyFile& smollm2_file() {
  static const VocabularyFile file = read_vocabulary(fixture("tokenizers/smollm2.vocabulary.json"));
  return file;
}
inline std::shared_ptr<const Tokenizer> smollm2() {
  static const std::shared_ptr<const Tokenizer> tokenizer =
      must(Tokenizer::from_vocabulary(smollm2_file().spec));
  return tokenizer;
}
/// Mistral's, for the sentencepiece kind.
inline std::shared_ptr<const Tokenizer> mistral() {
  static const std::shared_ptr<const Tokenizer> tokenizer = must(Tokenizer::from_vocabulary(
      read_vocabulary(fixture("tokenizers/mistral-v1.vocabulary.json")).spec));
  return tokenizer;
}

/// The folder with vocabularies that may not lie in this repository; empty when the variable is not
/// set.
inline std::string outside_tokenizers() {
  const char* folder = std::getenv("TAILOR_TOKENIZER_DIR");
  return folder == nullptr ? "" : folder;
}

}  // namespace tailor::text
