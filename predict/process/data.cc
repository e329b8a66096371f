#include "predict/process/data.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <unordered_map>

#include "base/model_stamp.h"
#include "base/numbers.h"
#include "predict/feature_file.h"
#include "predict/length_file.h"
#include "predict/model/prompt_features.h"
#include "predict/safetensors_writer.h"
#include "weights/default_model.h"
#include "weights/safetensors_file.h"

namespace tailor::predict {
namespace {

namespace fs = std::filesystem;
constexpr size_t kEncodedAtOnce = 256;

struct Lengths {
  LengthFile header;  // of the first file
  std::vector<PromptLengths> prompts;
  std::string trained_on;
};

/// As if the answers had run under this limit.
void cut_at(uint32_t limit, std::vector<PromptLengths>& prompts) {
  for (PromptLengths& prompt : prompts)
    for (size_t i = 0; i < prompt.lengths.size(); ++i)
      if (prompt.lengths[i] > limit) prompt.lengths[i] = limit, prompt.censored[i] = true;
}

Result<Lengths> read_lengths(const PredictorData& data) {
  Lengths out;
  std::unordered_map<std::string, size_t> place;
  for (const std::string& path : data.lengths) {
    TAILOR_ASSIGN(LengthFile file, read_length_file(path));
    if (out.trained_on.empty()) {
      out.header = file, out.header.prompts.clear();
    } else if (!stamp_fits(file.model_fingerprint, out.header.model_fingerprint)) {
      const bool older = is_sampled_stamp(out.header.model_fingerprint);
      return fail(ErrorCode::kInvalidArgument,
                  older ? stamp_misfit(data.lengths.front(), out.header.model_fingerprint,
                                       file.model_fingerprint)
                        : stamp_misfit(path, file.model_fingerprint, out.header.model_fingerprint));
    }
    out.header.max_tokens = std::max(out.header.max_tokens, file.max_tokens);
    if (data.limit > 0) cut_at(data.limit, file.prompts);
    out.trained_on += (out.trained_on.empty() ? "" : ", ") + fs::path(path).filename().string();
    for (PromptLengths& prompt : file.prompts) {
      if (std::any_of(data.leave_out.begin(), data.leave_out.end(),
                      [&](const std::string& start) { return prompt.id.starts_with(start); }))
        continue;
      const auto [it, fresh] = place.emplace(prompt.id, out.prompts.size());
      if (fresh) {
        out.prompts.push_back(std::move(prompt));
        continue;
      }
      PromptLengths& joined = out.prompts[it->second];
      joined.lengths.insert(joined.lengths.end(), prompt.lengths.begin(), prompt.lengths.end());
      joined.censored.insert(joined.censored.end(), prompt.censored.begin(), prompt.censored.end());
    }
  }
  if (out.prompts.empty())
    return fail(ErrorCode::kInvalidArgument, "the length files hold no prompts");
  return out;
}

double limit_of(const PredictorData& data, const Lengths& lengths) {
  if (data.limit > 0) return data.limit;
  uint32_t longest = 1;
  for (const auto& prompt : lengths.prompts)
    for (const uint32_t length : prompt.lengths) longest = std::max(longest, length);
  return std::max(lengths.header.max_tokens, longest);
}

FeatureRow row_of(const PromptLengths& prompt, double limit) {
  return {prompt.id, split_of(prompt.id), limit, prompt.lengths, prompt.censored};
}

std::string cache_file(const PromptFeatures& features, const std::vector<std::string>& texts) {
  uint64_t hash = id_hash(features.encoder_fingerprint() + features.name());
  for (const std::string& text : texts) hash = hash * 0x100000001b3ULL ^ id_hash(text);
  char name[32];
  std::snprintf(name, sizeof name, "%016" PRIx64, hash);
  return weights::cache_folder() + "/features/" + name + ".safetensors";
}

Result<void> add_prompts(const PredictorData& data, const Lengths& lengths, PredictorTable& out) {
  std::unordered_map<std::string, std::string> texts;
  for (const std::string& path : data.prompts) {
    TAILOR_ASSIGN(const auto prompts, read_prompts_file(path));
    for (const auto& prompt : prompts) texts.emplace(prompt.id, prompt.text);
  }
  TAILOR_ASSIGN(PromptFeatures features,
                PromptFeatures::open(data.features, data.threads, data.overlay));
  for (const auto& prompt : lengths.prompts) {
    const auto found = texts.find(prompt.id);
    if (found == texts.end()) continue;
    out.texts.push_back(found->second);
    out.table.rows.push_back(row_of(prompt, limit_of(data, lengths)));
  }
  out.table.width = features.size();
  TAILOR_ASSIGN(out.table.features, features_of(data, features, out.texts));
  out.info.encoder = features.name();
  out.info.encoder_fingerprint = features.encoder_fingerprint();
  out.prompts = std::make_unique<PromptFeatures>(std::move(features));
  return {};
}

Result<void> add_hidden(const PredictorData& data, const Lengths& lengths, PredictorTable& out) {
  const std::string spec = data.features.substr(std::string("hidden:").size());
  const size_t colon = spec.rfind(':');
  const int layer = colon == std::string::npos
                        ? 0
                        : parse_number<int>(std::string_view(spec).substr(colon + 1)).value_or(0);
  if (layer < 1)
    return fail(
        ErrorCode::kInvalidArgument,
        "--features hidden:FILE[,FILE..]:LAYER with a layer from 1, found " + data.features);
  FeatureHeader header;
  std::vector<FeatureRecord> records;
  for (size_t begin = 0; begin < colon;) {
    const size_t end = std::min(spec.find(',', begin), colon);
    TAILOR_ASSIGN(auto some, read_features(spec.substr(begin, end - begin), layer, &header));
    records.insert(records.end(), std::make_move_iterator(some.begin()),
                   std::make_move_iterator(some.end()));
    begin = end + 1;
  }
  std::unordered_map<uint64_t, const PromptLengths*> prompts;
  for (const auto& prompt : lengths.prompts) prompts.emplace(id_hash(prompt.id), &prompt);
  const bool remaining = data.kind == "remaining";
  for (const FeatureRecord& record : records) {
    const auto found = prompts.find(record.prompt);
    if (found == prompts.end() || remaining != (record.generated > 0)) continue;
    const PromptLengths& prompt = *found->second;
    FeatureRow row = row_of(prompt, limit_of(data, lengths));
    if (remaining) {
      if (record.sample >= prompt.lengths.size() ||
          prompt.lengths[record.sample] <= record.generated)
        continue;
      row.lengths = {prompt.lengths[record.sample] - record.generated};
      row.censored = {prompt.censored[record.sample]};
      row.limit -= record.generated;
    }
    out.table.rows.push_back(std::move(row));
    out.table.features.insert(out.table.features.end(), record.values.begin(), record.values.end());
    if (remaining) out.table.features.push_back(std::log1p(static_cast<float>(record.generated)));
  }
  out.table.width = static_cast<int>(header.hidden) + (remaining ? 1 : 0);
  if (!stamp_fits(header.model_fingerprint, lengths.header.model_fingerprint))
    return fail(ErrorCode::kInvalidArgument,
                stamp_misfit(spec.substr(0, colon), header.model_fingerprint,
                             lengths.header.model_fingerprint));
  out.info.encoder = "hidden";
  out.info.layer = layer;
  out.info.takes_generated = remaining;
  out.info.model_fingerprint = header.model_fingerprint;
  return {};
}

}  // namespace

Result<std::vector<float>> features_of(const PredictorData& data, const PromptFeatures& features,
                                       const std::vector<std::string>& texts) {
  const auto n = static_cast<int64_t>(texts.size()), width = static_cast<int64_t>(features.size());
  const std::string path = cache_file(features, texts);
  if (data.cache && fs::exists(path)) {
    const auto file = weights::SafetensorsFile::open(path);
    if (file && file->tensors().size() == 1 &&
        file->tensors()[0].shape == std::vector<int64_t>{n, width}) {
      const auto* values = reinterpret_cast<const float*>(file->tensors()[0].data);
      return std::vector<float>(values, values + n * width);
    }
  }
  std::vector<float> out;
  for (size_t begin = 0; begin < texts.size(); begin += kEncodedAtOnce) {
    const size_t count = std::min(kEncodedAtOnce, texts.size() - begin);
    TAILOR_ASSIGN(const std::vector<float> some,
                  features.compute(std::span(texts).subspan(begin, count)));
    out.insert(out.end(), some.begin(), some.end());
    if (data.say)
      data.say("features of " + std::to_string(begin + count) + " of " +
               std::to_string(texts.size()) + " prompts");
  }
  if (data.cache && features.encoder() != nullptr) {
    std::error_code ignored;  // a cache that cannot be written costs time, nothing else
    fs::create_directories(fs::path(path).parent_path(), ignored);
    SafetensorsWriter writer;
    writer.add("features", {n, width}, out);
    if (const auto written = writer.write(path); !written && data.say)
      data.say(written.error().message);
  }
  return out;
}

Result<PredictorTable> load_predictor_table(const PredictorData& data) {
  TAILOR_ASSIGN(const Lengths lengths, read_lengths(data));
  PredictorTable out;
  out.info.kind = data.kind;
  out.info.model_name = lengths.header.model;
  out.info.model_fingerprint = lengths.header.model_fingerprint;
  out.info.trained_on = lengths.trained_on;
  const bool hidden = data.features.starts_with("hidden:");
  if (hidden != (data.kind != "prompt"))
    return fail(ErrorCode::kInvalidArgument,
                "kind prompt reads texts, kinds probe and remaining read hidden:FILE:LAYER; found "
                "kind " +
                    data.kind + " with features " + data.features);
  TAILOR_TRY(hidden ? add_hidden(data, lengths, out) : add_prompts(data, lengths, out));
  if (out.table.rows.empty())
    return fail(
        ErrorCode::kInvalidArgument,
        "no prompt of the length files has a " +
            std::string(hidden ? "hidden state in the feature file" : "text in the prompts files"));
  return out;
}

}  // namespace tailor::predict
