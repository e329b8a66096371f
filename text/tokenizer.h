// Tokenizer: text to token ids and back, over Hugging Face's `tokenizers` (Rust, behind text/rust's
// C interface). Immutable after construction; every method may be called from any thread. Cost:
// encode 2.3 MB/s (byte-level) and 1 to 2 MB/s (sentencepiece, slower with the length), decode over
// 150 MB/s, on one thread of a Zen 3 core that other builds shared; a vocabulary of 50,000 loads in
// 0.15 s. A thread keeps a cache of up to 10,000 short words for each tokenizer it encodes with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/request.h"
#include "base/result.h"

namespace tailor::text {

/// A vocabulary as GGUF metadata carries it (the launcher copies it from weights::GgufVocabulary:
/// text/ knows no file formats of weights).
struct VocabularySpec {
  std::string model;  ///< "gpt2" (byte-level BPE) or "llama" (sentencepiece-style BPE)
  std::string pre;    ///< pre-tokenizer of gpt2-style: "smollm", "llama-bpe", "gpt-2", "qwen2", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;  ///< 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<std::string> merges;
  TokenId bos = -1, eos = -1, unknown = -1;
  bool add_bos = false, add_eos = false, add_space_prefix = true;
};

class Tokenizer {
 public:
  /// From a Hugging Face tokenizer.json. Errors: NotFound, InvalidArgument (names the file and what
  /// is wrong).
  static Result<std::shared_ptr<const Tokenizer>> from_file(const std::string& tokenizer_json);
  /// From GGUF metadata. Pre-tokenizers: gpt-2, smollm, llama-bpe (llama3, llama-v3), qwen2; their
  /// split patterns are those of the models' own tokenizer.json. Merges of model "llama" follow
  /// from the scores, as in sentencepiece. Errors: InvalidArgument (unknown model or pre-tokenizer:
  /// names it and what is known; lists that do not fit).
  static Result<std::shared_ptr<const Tokenizer>> from_vocabulary(const VocabularySpec& spec);

  virtual ~Tokenizer() = default;

  /// `add_special_tokens`: begin (and end) tokens as the model wants them. Special tokens written
  /// out in `text` are recognised. Errors: InvalidArgument (not UTF-8: names the byte).
  virtual Result<std::vector<TokenId>> encode(std::string_view text,
                                              bool add_special_tokens) const = 0;

  /// `text` with a mark inside every special token that is written in it, for encode_guarded():
  /// there these are words as others. U+FDD0, which is the mark, becomes U+FFFD. Without special
  /// tokens the text as it is. Errors: InvalidArgument (not UTF-8).
  virtual Result<std::string> guard(std::string_view text) const { return std::string(text); }
  /// As encode(), of a text into which guarded texts were put (by a chat template): special tokens
  /// of the template are recognised, those of the guarded texts are words. Cost: as encode(); the
  /// first text with a mark makes a second copy of the vocabulary (0.1 s).
  virtual Result<std::vector<TokenId>> encode_guarded(std::string_view text,
                                                      bool add_special_tokens) const {
    return encode(text, add_special_tokens);
  }

  /// The text of `ids` as a whole: their token_bytes joined, less one leading space where
  /// strips_leading_space(); bytes that are no UTF-8 become U+FFFD (one for each maximal part,
  /// base/utf8.h). Ids outside the vocabulary are skipped. Not undone: what encoding lost (a byte
  /// the vocabulary lacks, qwen2's composed characters).
  virtual std::string decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const = 0;

  /// The bytes one token stands for inside running text (a leading space where sentencepiece has
  /// its mark; byte tokens give their byte). Special tokens give their written form. Empty when
  /// outside the vocabulary.
  virtual const std::string& token_bytes(TokenId id) const = 0;
  virtual bool is_special(TokenId id) const = 0;
  virtual int64_t vocab_size() const = 0;
  /// Written form of a token to its id; -1 when there is none.
  virtual TokenId token_to_id(std::string_view token) const = 0;
  /// True where decoding drops the space in front of the first token (sentencepiece with a dummy
  /// prefix).
  virtual bool strips_leading_space() const = 0;
};

}  // namespace tailor::text
