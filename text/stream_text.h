// StreamText: one sequence's text as it grows. Feeds token ids in, gives whole UTF-8 characters
// out, and finds stop strings across token borders. A pure function of (options, ids): after a
// migration or a restart, feeding the same ids again gives the same pieces.
//
// Stop strings are looked for in the text as it is shown and, where special tokens are left out of
// it, also in the text with them: "<|im_end|>" can stop an answer that never shows it. Text that
// could be the beginning of a stop string is held back until it is decided; an unfinished
// UTF-8 character is held back until it is whole (or shown as U+FFFD when it can no longer become
// whole). Without a stop, the pieces joined are Tokenizer::decode of all ids; every piece is UTF-8.
//
// Of several stop strings the one that is complete first ends the text, whichever way it was cut
// into tokens; of two that end together, the longer one. Owner: one thread at a time. Cost: new
// characters x bytes of the stop strings.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/request.h"
#include "text/tokenizer.h"

namespace tailor::text {

struct StreamTextOptions {
  std::vector<std::string> stop;  ///< empty ones and ones that are not UTF-8 are ignored
  bool include_stop_in_output = false;
  bool skip_special_tokens = true;
  /// stop strings that end inside the first min_tokens tokens do not count
  int32_t min_tokens = 0;
};

class StreamText {
 public:
  StreamText(std::shared_ptr<const Tokenizer> tokenizer, StreamTextOptions options);

  struct Piece {
    uint64_t offset = 0;  ///< bytes of text given out before this piece
    std::string text;
    bool stopped = false;  ///< a stop string was completed by this token; nothing may follow
    std::string stop_match;
  };
  /// Feeds one token. After `stopped` it must not be called again.
  Piece push(TokenId id);
  /// The sequence ended for another reason: what was held back comes out.
  Piece finish();

  uint64_t text_bytes() const { return emitted_; }

 private:
  struct Match {
    size_t begin = 0, end = 0;  // in pending_
    const std::string* stop = nullptr;
    bool of_shown = false;  // in the text as it is shown
  };
  Match find_stop(size_t from) const;
  size_t undecided() const;
  std::string shown(size_t size) const;
  Piece give(size_t size);

  std::shared_ptr<const Tokenizer> tokenizer_;
  StreamTextOptions options_;
  std::string bytes_;         // decoded, not yet whole characters
  std::string pending_;       // whole characters, held back for stop strings; left out tokens too
  std::vector<bool> hidden_;  // of each byte of pending_; empty = none is
  uint64_t emitted_ = 0;
  int32_t tokens_ = 0;
  bool at_start_ = true;
};

}  // namespace tailor::text
