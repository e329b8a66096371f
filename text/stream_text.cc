#include "text/stream_text.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "text/utf8.h"

namespace tailor::text {
namespace {

bool ends_at(std::string_view text, size_t end, std::string_view what) {
  return end >= what.size() && text.substr(end - what.size(), what.size()) == what;
}

// Length of the longest end of `text` that is a proper beginning of `stop`.
size_t begun(std::string_view text, std::string_view stop) {
  for (size_t size = std::min(text.size(), stop.size() - 1); size > 0; --size) {
    if (text.substr(text.size() - size) == stop.substr(0, size)) return size;
  }
  return 0;
}

}  // namespace

StreamText::StreamText(std::shared_ptr<const Tokenizer> tokenizer, StreamTextOptions options)
    : tokenizer_(std::move(tokenizer)), options_(std::move(options)) {
  // An empty stop would end everything at once, and one that is not UTF-8 could only match inside a
  // character.
  std::erase_if(options_.stop, [](const std::string& stop) {
    return stop.empty() || find_invalid_utf8(stop) != std::string_view::npos;
  });
}

StreamText::Piece StreamText::push(TokenId id) {
  ++tokens_;
  if (!(options_.skip_special_tokens && tokenizer_->is_special(id))) {
    std::string_view bytes = tokenizer_->token_bytes(id);
    if (at_start_ && !bytes.empty()) {
      at_start_ = false;
      if (tokenizer_->strips_leading_space() && bytes.front() == ' ') bytes.remove_prefix(1);
    }
    bytes_ += bytes;
  }
  const size_t old_size = pending_.size();
  bytes_.erase(0, append_utf8(bytes_, /*at_end=*/false, pending_));
  if (tokens_ > options_.min_tokens) {
    // The stop that is complete first, whichever way the text was cut into tokens; of two that end
    // together, the longer one.
    for (size_t end = old_size + 1; end <= pending_.size(); ++end) {
      const std::string* match = nullptr;
      for (const std::string& stop : options_.stop) {
        if (ends_at(pending_, end, stop) && (match == nullptr || stop.size() > match->size()))
          match = &stop;
      }
      if (match == nullptr) continue;
      pending_.resize(options_.include_stop_in_output ? end : end - match->size());
      Piece piece = give(pending_.size());
      piece.stopped = true;
      piece.stop_match = *match;
      bytes_.clear();
      return piece;
    }
  }
  size_t held = 0;
  for (const std::string& stop : options_.stop) held = std::max(held, begun(pending_, stop));
  return give(pending_.size() - held);
}

StreamText::Piece StreamText::finish() {
  append_utf8(bytes_, /*at_end=*/true, pending_);
  bytes_.clear();
  return give(pending_.size());
}

StreamText::Piece StreamText::give(size_t size) {
  Piece piece;
  piece.offset = emitted_;
  piece.text = pending_.substr(0, size);
  pending_.erase(0, size);
  emitted_ += size;
  return piece;
}

}  // namespace tailor::text
