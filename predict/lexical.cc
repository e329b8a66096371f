#include "predict/lexical.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace tailor::predict {
namespace {

constexpr size_t kHeadBytes = 48 << 10, kTailBytes = 16 << 10;
constexpr size_t kFirstWords = 8;
constexpr double kMostAsked = 100'000;  // "1000000 words" is no plan

/// Place of a feature, by name, checked when compiling.
consteval size_t at(std::string_view name) {
  for (size_t i = 0; i < kLexicalFeatures; ++i) {
    if (kLexicalNames[i] == name) return i;
  }
  throw "no such feature";
}

struct Keyword {
  std::string_view word;
  size_t feature;
};

constexpr auto kKeywords = [] {
  auto words = std::to_array<Keyword>({
      {"list", at("verb_list")},          {"name", at("verb_list")},
      {"give", at("verb_list")},          {"suggest", at("verb_list")},
      {"recommend", at("verb_list")},     {"enumerate", at("verb_list")},
      {"provide", at("verb_list")},       {"brainstorm", at("verb_list")},
      {"write", at("verb_write")},        {"create", at("verb_write")},
      {"compose", at("verb_write")},      {"generate", at("verb_write")},
      {"draft", at("verb_write")},        {"design", at("verb_write")},
      {"make", at("verb_write")},         {"develop", at("verb_write")},
      {"explain", at("verb_explain")},    {"describe", at("verb_explain")},
      {"discuss", at("verb_explain")},    {"why", at("verb_explain")},
      {"how", at("verb_explain")},        {"compare", at("verb_explain")},
      {"analyze", at("verb_explain")},    {"elaborate", at("verb_explain")},
      {"summarize", at("verb_shorten")},  {"summarise", at("verb_shorten")},
      {"summary", at("verb_shorten")},    {"extract", at("verb_shorten")},
      {"translate", at("verb_shorten")},  {"rewrite", at("verb_shorten")},
      {"paraphrase", at("verb_shorten")}, {"shorten", at("verb_shorten")},
      {"edit", at("verb_shorten")},       {"correct", at("verb_shorten")},
      {"classify", at("verb_classify")},  {"identify", at("verb_classify")},
      {"choose", at("verb_classify")},    {"select", at("verb_classify")},
      {"which", at("verb_classify")},     {"categorize", at("verb_classify")},
      {"determine", at("verb_classify")}, {"label", at("verb_classify")},
      {"calculate", at("verb_compute")},  {"compute", at("verb_compute")},
      {"solve", at("verb_compute")},      {"convert", at("verb_compute")},
      {"many", at("verb_compute")},       {"much", at("verb_compute")},
      {"what", at("asks_fact")},          {"what's", at("asks_fact")},
      {"who", at("asks_fact")},           {"when", at("asks_fact")},
      {"where", at("asks_fact")},         {"brief", at("brief")},
      {"briefly", at("brief")},           {"short", at("brief")},
      {"concise", at("brief")},           {"single", at("brief")},
      {"detailed", at("extensive")},      {"detail", at("extensive")},
      {"comprehensive", at("extensive")}, {"thorough", at("extensive")},
      {"depth", at("extensive")},         {"long", at("extensive")},
      {"step", at("extensive")},          {"story", at("noun_text")},
      {"essay", at("noun_text")},         {"poem", at("noun_text")},
      {"article", at("noun_text")},       {"letter", at("noun_text")},
      {"email", at("noun_text")},         {"blog", at("noun_text")},
      {"script", at("noun_text")},        {"speech", at("noun_text")},
      {"song", at("noun_text")},          {"report", at("noun_text")},
      {"code", at("noun_code")},          {"function", at("noun_code")},
      {"program", at("noun_code")},       {"python", at("noun_code")},
      {"javascript", at("noun_code")},    {"java", at("noun_code")},
      {"sql", at("noun_code")},           {"html", at("noun_code")},
      {"algorithm", at("noun_code")},
  });
  std::sort(words.begin(), words.end(),
            [](const Keyword& a, const Keyword& b) { return a.word < b.word; });
  return words;
}();
constexpr size_t kLongestKeyword = 16;

bool letter(unsigned char c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }
bool digit(unsigned char c) { return c >= '0' && c <= '9'; }
bool of_word(unsigned char c) { return letter(c) || digit(c) || c == '\'' || c >= 0x80; }
bool blank(unsigned char c) { return c == ' ' || c == '\t' || c == '\r'; }
float log_count(double count) { return static_cast<float>(std::log1p(count)); }
float share(size_t part, size_t all) {
  return all == 0 ? 0 : static_cast<float>(part) / static_cast<float>(all);
}

/// "12" or "1000" (no sign, no fraction), or a number spelled out; 0 for anything else.
double number_of(std::string_view word) {
  static constexpr std::array<std::string_view, 21> kSpelled = {
      "",         "one",     "two",     "three",     "four",     "five",     "six",
      "seven",    "eight",   "nine",    "ten",       "eleven",   "twelve",   "thirteen",
      "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"};
  if (word.empty()) return 0;
  if (std::all_of(word.begin(), word.end(), digit) && word.size() < 8) {
    double value = 0;
    for (const char c : word) value = value * 10 + (c - '0');
    return value;
  }
  const auto it = std::find(kSpelled.begin() + 1, kSpelled.end(), word);
  return it == kSpelled.end() ? 0 : static_cast<double>(it - kSpelled.begin());
}

/// Characters by script. Bytes that are no UTF-8 count as characters outside ASCII.
struct Characters {
  size_t all = 0, ascii_letters = 0, upper = 0, digits = 0, symbols = 0;
  size_t other = 0, cjk = 0, cyrillic = 0, rtl = 0, indic = 0, questions = 0;

  void count(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
      const auto c = static_cast<unsigned char>(text[i]);
      ++all;
      if (c < 0x80) {
        ascii(c);
        ++i;
        continue;
      }
      const size_t size = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
      uint32_t point = c & (0xFFu >> (size + 1));
      size_t taken = 1;
      while (taken < size && i + taken < text.size() && (text[i + taken] & 0xC0) == 0x80) {
        point = point << 6 | (text[i + taken++] & 0x3Fu);
      }
      wide(point);
      i += taken;
    }
  }

 private:
  void ascii(unsigned char c) {
    ascii_letters += letter(c);
    upper += c >= 'A' && c <= 'Z';
    digits += digit(c);
    questions += c == '?';
    symbols +=
        std::string_view("{}[]()<>=;/\\_").find(static_cast<char>(c)) != std::string_view::npos;
  }
  void wide(uint32_t c) {
    const auto in = [c](uint32_t low, uint32_t high) { return c >= low && c <= high; };
    ++other;
    questions += c == 0xFF1F || c == 0x061F || c == 0x037E;
    cyrillic += in(0x0370, 0x052F);
    rtl += in(0x0590, 0x08FF);
    indic += in(0x0900, 0x0E7F);
    cjk += in(0x1100, 0x11FF) || in(0x3040, 0x30FF) || in(0x3400, 0x9FFF) || in(0xAC00, 0xD7AF) ||
           in(0xF900, 0xFAFF) || in(0x20000, 0x3FFFF);
  }
};

struct Lines {
  size_t filled = 0, lists = 0, paragraphs = 0;

  void count(std::string_view text) {
    bool inside = false;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      std::string_view line = text.substr(begin, end - begin);
      while (!line.empty() && blank(static_cast<unsigned char>(line.front())))
        line.remove_prefix(1);
      filled += !line.empty();
      paragraphs += !line.empty() && !inside;
      inside = !line.empty();
      lists += is_item(line);
      begin = end + 1;
    }
  }

 private:
  static bool is_item(std::string_view line) {
    if (line.starts_with("- ") || line.starts_with("* ") || line.starts_with("• ")) return true;
    size_t digits = 0;
    while (digits < line.size() && digits < 4 && digit(static_cast<unsigned char>(line[digits]))) {
      ++digits;
    }
    return digits > 0 && digits < line.size() && (line[digits] == '.' || line[digits] == ')') &&
           (digits + 1 == line.size() || line[digits + 1] == ' ');
  }
};

/// The words in order: keywords, and what a number before a word asks for.
class Words {
 public:
  explicit Words(std::array<float, kLexicalFeatures>& features) : features_(features) {}

  void count(std::string_view text) {
    previous_number_ = 0;
    for (size_t i = 0; i < text.size();) {
      if (!of_word(static_cast<unsigned char>(text[i]))) {
        // "500-word" asks, "3. Words" and "2, ways" do not.
        if (!blank(static_cast<unsigned char>(text[i])) && text[i] != '-') previous_number_ = 0;
        ++i;
        continue;
      }
      size_t end = i;
      while (end < text.size() && of_word(static_cast<unsigned char>(text[end]))) ++end;
      add(text.substr(i, end - i));
      i = end;
    }
  }

  size_t words = 0, bytes = 0;
  double words_asked = 0, items_asked = 0;

 private:
  void add(std::string_view written) {
    ++words;
    bytes += written.size();
    char lower[kLongestKeyword];
    if (written.size() > kLongestKeyword) {
      previous_number_ = 0;
      return;
    }
    std::transform(written.begin(), written.end(), lower,
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 32) : c; });
    const std::string_view word(lower, written.size());
    const auto keyword = std::lower_bound(
        kKeywords.begin(), kKeywords.end(), word,
        [](const Keyword& known, std::string_view other) { return known.word < other; });
    if (keyword != kKeywords.end() && keyword->word == word) mark(keyword->feature);
    if (previous_number_ > 0) ask(previous_number_, word);
    if (word == "no" && before_ == kYesOr) mark(at("brief"));
    before_ = word == "yes" ? kYes : word == "or" && before_ == kYes ? kYesOr : kNothing;
    previous_number_ = number_of(word);
  }

  void mark(size_t feature) {
    features_[feature] = std::max(features_[feature], words <= kFirstWords ? 1.0f : 0.5f);
  }

  void ask(double number, std::string_view word) {
    number = std::min(number, kMostAsked);
    double each = 0;
    if (word == "word" || word == "words") each = 1;
    if (word.starts_with("sentence")) each = 20;
    if (word.starts_with("paragraph")) each = 100;
    if (word == "page" || word == "pages") each = 400;
    if (each > 0) {
      words_asked = std::max(words_asked, number * each);
      if (number <= 1 && each <= 20) mark(at("brief"));
    } else if (number >= 2 && number <= 1000 && word.size() > 3 && word.ends_with('s')) {
      items_asked = std::max(items_asked, number);
    }
  }

  std::array<float, kLexicalFeatures>& features_;
  double previous_number_ = 0;
  enum { kNothing, kYes, kYesOr } before_ = kNothing;
};

}  // namespace

std::array<float, kLexicalFeatures> lexical_features(std::string_view prompt) {
  std::array<float, kLexicalFeatures> out{};
  const bool cut = prompt.size() > kHeadBytes + kTailBytes;
  const std::array<std::string_view, 2> parts = {
      prompt.substr(0, cut ? kHeadBytes : prompt.size()),
      cut ? prompt.substr(prompt.size() - kTailBytes) : std::string_view()};
  Characters characters;
  Lines lines;
  Words words(out);
  for (const std::string_view part : parts) {
    characters.count(part);
    lines.count(part);
    words.count(part);
    if (part.find("```") != std::string_view::npos) out[at("code_fence")] = 1;
    if (part.find("http://") != std::string_view::npos ||
        part.find("https://") != std::string_view::npos) {
      out[at("link")] = 1;
    }
  }
  std::string_view text = prompt;
  while (!text.empty() && (blank(static_cast<unsigned char>(text.back())) || text.back() == '\n')) {
    text.remove_suffix(1);
  }
  out[at("log_bytes")] = log_count(static_cast<double>(prompt.size()));
  out[at("log_words")] = log_count(static_cast<double>(words.words));
  out[at("log_lines")] = log_count(static_cast<double>(lines.filled));
  out[at("log_paragraphs")] = log_count(static_cast<double>(lines.paragraphs));
  out[at("word_bytes")] = std::min(4.0f, share(words.bytes, words.words) / 8);
  out[at("log_questions")] = log_count(static_cast<double>(characters.questions));
  out[at("ends_in_question")] = text.ends_with('?') || text.ends_with("？") || text.ends_with("؟");
  out[at("digit_share")] = share(characters.digits, characters.all);
  out[at("upper_share")] = share(characters.upper, characters.ascii_letters);
  out[at("symbol_share")] = share(characters.symbols, characters.all);
  out[at("other_share")] = share(characters.other, characters.all);
  out[at("cjk_share")] = share(characters.cjk, characters.all);
  out[at("cyrillic_share")] = share(characters.cyrillic, characters.all);
  out[at("rtl_share")] = share(characters.rtl, characters.all);
  out[at("indic_share")] = share(characters.indic, characters.all);
  out[at("log_list_lines")] = log_count(static_cast<double>(lines.lists));
  out[at("log_words_asked")] = log_count(words.words_asked);
  out[at("log_items_asked")] = log_count(words.items_asked);
  return out;
}

}  // namespace tailor::predict
