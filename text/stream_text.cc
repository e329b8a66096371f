#include "text/stream_text.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/utf8.h"

namespace tailor::text {
namespace {

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
  const size_t old_size = pending_.size();
  if (options_.skip_special_tokens && tokenizer_->is_special(id)) {
    if (!options_.stop.empty()) {
      const std::string& written = tokenizer_->token_bytes(id);
      hidden_.resize(pending_.size(), false);
      append_utf8(written, /*at_end=*/true, pending_);
      hidden_.resize(pending_.size(), true);
    }
  } else {
    std::string_view bytes = tokenizer_->token_bytes(id);
    if (at_start_ && !bytes.empty()) {
      at_start_ = false;
      if (tokenizer_->strips_leading_space() && bytes.front() == ' ') bytes.remove_prefix(1);
    }
    bytes_ += bytes;
    bytes_.erase(0, append_utf8(bytes_, /*at_end=*/false, pending_));
    if (!hidden_.empty()) hidden_.resize(pending_.size(), false);
  }
  if (tokens_ > options_.min_tokens) {
    if (const Match match = find_stop(old_size); match.stop != nullptr) {
      if (options_.include_stop_in_output && !match.of_shown)
        for (size_t i = match.begin; i < match.end && !hidden_.empty(); ++i) hidden_[i] = false;
      Piece piece = give(options_.include_stop_in_output ? match.end : match.begin);
      piece.stopped = true;
      piece.stop_match = *match.stop;
      pending_.clear();
      hidden_.clear();
      bytes_.clear();
      return piece;
    }
  }
  return give(pending_.size() - undecided());
}

// The stop that is complete first, whichever way the text was cut into tokens; of two that end
// together, the longer one. Nothing that ended before `from` is found again.
StreamText::Match StreamText::find_stop(size_t from) const {
  Match found;
  const auto look_in = [&](std::string_view text, size_t start, bool of_shown, const auto& place) {
    for (size_t end = start + 1; end <= text.size(); ++end) {
      for (const std::string& stop : options_.stop) {
        if (end < stop.size() || text.substr(end - stop.size(), stop.size()) != stop) continue;
        const Match match{place(end - stop.size()), place(end - 1) + 1, &stop, of_shown};
        const bool better = found.stop == nullptr || match.end < found.end ||
                            (match.end == found.end && stop.size() > found.stop->size());
        if (better) found = match;
      }
      if (found.stop != nullptr && found.end <= place(end - 1) + 1) return;
    }
  };
  look_in(pending_, from, false, [](size_t i) { return i; });
  if (hidden_.empty()) return found;
  std::vector<size_t> places;
  size_t start = 0;
  for (size_t i = 0; i < pending_.size(); ++i) {
    if (hidden_[i]) continue;
    if (i < from) ++start;
    places.push_back(i);
  }
  look_in(shown(pending_.size()), start, true, [&](size_t i) { return places[i]; });
  return found;
}

// Bytes at the end of pending_ that may belong to a stop that is not complete.
size_t StreamText::undecided() const {
  size_t size = 0;
  for (const std::string& stop : options_.stop) size = std::max(size, begun(pending_, stop));
  if (hidden_.empty()) return size;
  const std::string text = shown(pending_.size());
  size_t visible = 0;
  for (const std::string& stop : options_.stop) visible = std::max(visible, begun(text, stop));
  size_t at = pending_.size();
  while (visible > 0) visible -= hidden_[--at] ? 0 : 1;
  return std::max(size, pending_.size() - at);
}

StreamText::Piece StreamText::finish() {
  append_utf8(bytes_, /*at_end=*/true, pending_);
  bytes_.clear();
  if (!hidden_.empty()) hidden_.resize(pending_.size(), false);
  return give(pending_.size());
}

// The first `size` bytes of pending_, less those of tokens that are left out.
std::string StreamText::shown(size_t size) const {
  if (hidden_.empty()) return pending_.substr(0, size);
  std::string out;
  for (size_t i = 0; i < size; ++i)
    if (!hidden_[i]) out += pending_[i];
  return out;
}

StreamText::Piece StreamText::give(size_t size) {
  Piece piece;
  piece.offset = emitted_;
  piece.text = shown(size);
  pending_.erase(0, size);
  if (!hidden_.empty()) {
    hidden_.erase(hidden_.begin(), hidden_.begin() + static_cast<std::ptrdiff_t>(size));
    if (std::find(hidden_.begin(), hidden_.end(), true) == hidden_.end()) hidden_.clear();
  }
  emitted_ += piece.text.size();
  return piece;
}

}  // namespace tailor::text
