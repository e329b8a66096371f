#include "predict/model/encoder.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <numeric>
#include <string_view>

#include "base/utf8.h"
#include "predict/model/encoder_torch.h"
#include "text/tokenizer.h"

namespace tailor::predict {
namespace {

/// Tokens of a batch with its padding: larger ones gain nothing on a CPU and spill its caches.
/// Above the smaller number a batch takes no prompt that would be more than a fifth padding.
constexpr size_t kTokensPerBatch = 2048;
constexpr size_t kSmallBatchTokens = 128;
constexpr size_t kTextBytesPerToken = 64;

/// How many of `rows`, sorted from the longest, make the next batch.
size_t batch_size(std::span<const std::vector<TokenId>> rows, std::span<const size_t> order) {
  const size_t longest = rows[order[0]].size();
  size_t count = 1;
  while (count < order.size() && (count + 1) * longest <= kTokensPerBatch &&
         (count * longest < kSmallBatchTokens || rows[order[count]].size() * 5 >= longest * 4)) {
    ++count;
  }
  return count;
}

std::string folder_name(const std::string& folder) {
  std::filesystem::path path = std::filesystem::path(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

}  // namespace

Encoder::~Encoder() = default;

Result<std::unique_ptr<Encoder>> Encoder::load(const std::string& hf_folder, int threads,
                                               int max_tokens) {
  std::unique_ptr<Encoder> encoder(new Encoder);
  encoder->name_ = folder_name(hf_folder);
  try {
    if (threads > 0) at::set_num_threads(threads);
    TAILOR_ASSIGN(encoder->net_, EncoderNet::load(hf_folder));
  } catch (const std::exception& e) {
    return fail(ErrorCode::kDeviceFailure, hf_folder + ": " + e.what());
  }
  encoder->max_tokens_ = static_cast<int>(
      std::min<int64_t>({max_tokens, kMaxTokens, encoder->net_->config().max_position}));
  if (encoder->max_tokens_ < 2) {
    return fail(ErrorCode::kInvalidArgument,
                "an encoder's limit of tokens must be at least 2, found " +
                    std::to_string(encoder->max_tokens_));
  }
  TAILOR_TRY(encoder->load_tokenizer(hf_folder + "/tokenizer.json"));
  return encoder;
}

Result<void> Encoder::load_tokenizer(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return fail(ErrorCode::kNotFound,
                "no " + path +
                    " (a folder with spm.model alone is converted by saving "
                    "transformers' AutoTokenizer.from_pretrained(folder) into it)");
  }
  TAILOR_ASSIGN(tokenizer_, text::Tokenizer::from_file(path));
  TAILOR_ASSIGN(const std::vector<TokenId> ends, tokenizer_->encode("", true));
  if (ends.size() != 2) {
    return fail(ErrorCode::kInvalidArgument,
                path +
                    ": expected it to add [CLS] before and [SEP] behind a text, found that it "
                    "adds " +
                    std::to_string(ends.size()) + " tokens");
  }
  cls_ = ends[0];
  sep_ = ends[1];
  if (tokenizer_->vocab_size() > net_->config().vocab_size) {
    return fail(ErrorCode::kInvalidArgument, path + ": expected at most " +
                                                 std::to_string(net_->config().vocab_size) +
                                                 " tokens (config.json, vocab_size), found " +
                                                 std::to_string(tokenizer_->vocab_size()));
  }
  return {};
}

int Encoder::feature_size() const { return static_cast<int>(3 * net_->config().hidden_size); }
const std::string& Encoder::fingerprint() const { return net_->fingerprint(); }

Result<std::vector<TokenId>> Encoder::tokenize(std::string_view prompt) const {
  const size_t limit = static_cast<size_t>(max_tokens_) * kTextBytesPerToken;
  const bool cut = prompt.size() > limit;
  std::string text;
  append_utf8(prompt.substr(0, limit), /*at_end=*/!cut, text);
  TAILOR_ASSIGN(std::vector<TokenId> ids, tokenizer_->encode(text, false));
  if (ids.size() > static_cast<size_t>(max_tokens_) - 2) {
    ids.resize(static_cast<size_t>(max_tokens_) - 2);
  }
  ids.insert(ids.begin(), cls_);
  ids.push_back(sep_);
  return ids;
}

Result<std::vector<float>> Encoder::encode(std::span<const std::string> prompts) const {
  std::vector<std::vector<TokenId>> rows;
  rows.reserve(prompts.size());
  for (const std::string& prompt : prompts) {
    TAILOR_ASSIGN(std::vector<TokenId> row, tokenize(prompt));
    rows.push_back(std::move(row));
  }
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return rows[a].size() > rows[b].size(); });
  std::vector<float> out(rows.size() * static_cast<size_t>(feature_size()));
  try {
    TAILOR_TRY(encode_sorted(rows, order, out));
  } catch (const std::exception& e) {
    return fail(ErrorCode::kDeviceFailure, "encoder " + name_ + ": " + e.what());
  }
  return out;
}

/// Batches of prompts of similar length, the longest first.
Result<void> Encoder::encode_sorted(std::span<const std::vector<TokenId>> rows,
                                    std::span<const size_t> order, std::span<float> out) const {
  const c10::InferenceMode no_gradients;
  const auto width = static_cast<size_t>(feature_size());
  for (size_t begin = 0; begin < order.size();) {
    const size_t count = batch_size(rows, order.subspan(begin));
    std::vector<std::vector<TokenId>> batch_rows;
    for (size_t i = begin; i < begin + count; ++i) batch_rows.push_back(rows[order[i]]);
    const TokenBatch batch = pad_tokens(batch_rows);
    const at::Tensor hidden = net_->forward_from(0, net_->embed(batch.ids, batch.mask), batch.mask);
    const at::Tensor features = pool(hidden, batch.mask).contiguous();
    for (size_t i = 0; i < count; ++i) {
      std::copy_n(features.const_data_ptr<float>() + i * width, width,
                  out.data() + order[begin + i] * width);
    }
    begin += count;
  }
  return {};
}

}  // namespace tailor::predict
