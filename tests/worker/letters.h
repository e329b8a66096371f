// A tokenizer whose texts are easy to read, for tests.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace tailor::worker::test {

/// A vocabulary of single letters: token i is the letter 'a' + i; 26 is a special end token, 27 and
/// 28 are the two bytes of "é".
class Letters : public text::Tokenizer {
 public:
  Letters() {
    for (char c = 'a'; c <= 'z'; ++c) bytes_.emplace_back(1, c);
    bytes_.push_back("<end>");
    bytes_.push_back("\xC3");
    bytes_.push_back("\xA9");
  }
  Result<std::vector<TokenId>> encode(std::string_view text, bool) const override {
    std::vector<TokenId> ids;
    for (char c : text) ids.push_back(c - 'a');
    return ids;
  }
  std::string decode(const std::vector<TokenId>& ids, bool skip) const override {
    std::string out;
    for (TokenId id : ids)
      if (!skip || !is_special(id)) out += token_bytes(id);
    return out;
  }
  const std::string& token_bytes(TokenId id) const override {
    static const std::string none;
    return id >= 0 && id < static_cast<TokenId>(bytes_.size()) ? bytes_[id] : none;
  }
  bool is_special(TokenId id) const override { return id == 26; }
  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()); }
  TokenId token_to_id(std::string_view token) const override {
    return token.size() == 1 ? token[0] - 'a' : -1;
  }
  bool strips_leading_space() const override { return false; }

 private:
  std::vector<std::string> bytes_;
};

}  // namespace tailor::worker::test
