// The file of a LengthHead: tensors by name, everything else as texts in the metadata.
#include <map>

#include "base/numbers.h"
#include "predict/length_head.h"
#include "predict/safetensors_writer.h"
#include "weights/safetensors_file.h"

namespace tailor::predict {
namespace {

using weights::SafetensorsFile;
using weights::StoredTensor;
constexpr const char* kFormat = "tailor-length-head-1";

class Reader {
 public:
  Reader(const SafetensorsFile& file) : file_(file) {
    for (const StoredTensor& tensor : file.tensors()) tensors_[tensor.name] = &tensor;
  }
  bool has(const std::string& name) const { return tensors_.count(name) > 0; }

  Result<std::vector<float>> values(const std::string& name,
                                    const std::vector<int64_t>& shape) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end())
      return fail(ErrorCode::kDataLoss, file_.path() + ": expected a tensor " + name);
    const StoredTensor& tensor = *found->second;
    if (tensor.shape != shape) {
      return fail(ErrorCode::kDataLoss, file_.path() + ": tensor " + name + ": expected shape " +
                                            weights::shape_string(shape) + ", found " +
                                            weights::shape_string(tensor.shape));
    }
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    std::vector<float> out(static_cast<size_t>(count));
    if (count > 0) weights::dequantize_row(tensor.type, tensor.data, 0, count, out.data());
    return out;
  }

  Result<HeadLinear> linear(const std::string& name) const {
    const auto found = tensors_.find(name + ".weight");
    if (found == tensors_.end() || found->second->shape.size() != 2 ||
        found->second->shape[0] > LengthHead::kMaxWidth || found->second->shape[1] > (1 << 20)) {
      return fail(ErrorCode::kDataLoss, file_.path() + ": expected a matrix " + name +
                                            ".weight of at most " +
                                            std::to_string(LengthHead::kMaxWidth) + " rows");
    }
    HeadLinear layer;
    layer.outputs = static_cast<int>(found->second->shape[0]);
    layer.inputs = static_cast<int>(found->second->shape[1]);
    TAILOR_ASSIGN(layer.weight, values(name + ".weight", {layer.outputs, layer.inputs}));
    TAILOR_ASSIGN(layer.bias, values(name + ".bias", {layer.outputs}));
    return layer;
  }

  Result<std::vector<HeadLinear>> stack(const std::string& name) const {
    std::vector<HeadLinear> layers;
    for (int i = 0; has(name + "." + std::to_string(i) + ".weight"); ++i) {
      TAILOR_ASSIGN(HeadLinear layer, linear(name + "." + std::to_string(i)));
      layers.push_back(std::move(layer));
    }
    return layers;
  }

  Result<HeadMember> member(const std::string& name) const {
    HeadMember out;
    for (int i = 0; has(name + ".trunk." + std::to_string(i) + ".weight"); ++i) {
      const std::string layer = name + ".trunk." + std::to_string(i);
      HeadTrunkLayer trunk;
      TAILOR_ASSIGN(trunk.linear, linear(layer));
      TAILOR_ASSIGN(trunk.norm_weight, values(layer + ".norm.weight", {trunk.linear.outputs}));
      TAILOR_ASSIGN(trunk.norm_bias, values(layer + ".norm.bias", {trunk.linear.outputs}));
      out.trunk.push_back(std::move(trunk));
    }
    TAILOR_ASSIGN(out.mu, stack(name + ".mu"));
    TAILOR_ASSIGN(out.sigma, stack(name + ".sigma"));
    TAILOR_ASSIGN(out.bins, stack(name + ".bins"));
    return out;
  }

  Result<std::string> text(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    if (found == file_.metadata().end())
      return fail(ErrorCode::kDataLoss,
                  file_.path() + ": expected the entry \"" + key + "\" in its metadata");
    return found->second;
  }
  Result<double> number(const std::string& key) const {
    TAILOR_ASSIGN(const std::string value, text(key));
    const auto out = parse_number<double>(value);
    if (!out)
      return fail(ErrorCode::kDataLoss, file_.path() + ": entry \"" + key +
                                            "\": expected a number, found \"" +
                                            weights::printable(value) + "\"");
    return *out;
  }

 private:
  const SafetensorsFile& file_;
  std::map<std::string, const StoredTensor*> tensors_;
};

Result<HeadInfo> read_info(const Reader& reader) {
  HeadInfo info;
  TAILOR_ASSIGN(info.kind, reader.text("kind"));
  TAILOR_ASSIGN(info.encoder, reader.text("encoder"));
  TAILOR_ASSIGN(info.encoder_fingerprint, reader.text("encoder_fingerprint"));
  TAILOR_ASSIGN(info.model_fingerprint, reader.text("model_fingerprint"));
  TAILOR_ASSIGN(info.model_name, reader.text("model_name"));
  TAILOR_ASSIGN(info.trained_on, reader.text("trained_on"));
  TAILOR_ASSIGN(const double layer, reader.number("layer"));
  TAILOR_ASSIGN(const double generated, reader.number("takes_generated"));
  TAILOR_ASSIGN(const double inputs, reader.number("input_size"));
  TAILOR_ASSIGN(info.nu, reader.number("nu"));
  TAILOR_ASSIGN(const double mu, reader.number("population_mu"));
  TAILOR_ASSIGN(const double sigma, reader.number("population_sigma"));
  if (!(inputs >= 1 && inputs <= (1 << 20)) || !(layer >= -1 && layer <= (1 << 20)))
    return fail(ErrorCode::kDataLoss, "expected 1 to 1048576 inputs and a layer from -1, found " +
                                          std::to_string(inputs) + " and " + std::to_string(layer));
  info.layer = static_cast<int>(layer);
  info.takes_generated = generated != 0;
  info.input_size = static_cast<int>(inputs);
  info.population.kind = LengthLaw::Kind::kLogT;
  info.population.mu = static_cast<float>(mu);
  info.population.sigma = static_cast<float>(sigma);
  info.population.nu = static_cast<float>(info.nu);
  return info;
}

// Settings by name: one list for both directions.
template <class W, class F>
Result<void> each_setting(W& w, const F& visit) {
  auto& r = w.recalibration;
  const std::pair<const char*, decltype(&r.mu_scale)> settings[] = {
      {"target_mean_mu", &w.target_mean[0]},
      {"target_mean_sigma", &w.target_mean[1]},
      {"target_deviation_mu", &w.target_deviation[0]},
      {"target_deviation_sigma", &w.target_deviation[1]},
      {"low", &w.low},
      {"high", &w.high},
      {"mu_scale", &r.mu_scale},
      {"mu_shift", &r.mu_shift},
      {"sigma_scale", &r.sigma_scale},
      {"sigma_shift", &r.sigma_shift},
      {"error_variance", &r.error_variance},
      {"temperature", &r.temperature}};
  for (const auto& [name, value] : settings) TAILOR_TRY(visit(name, value));
  return {};
}

std::string shortest(double value) {
  char text[40];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

void add(SafetensorsWriter& writer, const std::string& name, const HeadLinear& layer) {
  writer.add(name + ".weight", {layer.outputs, layer.inputs}, layer.weight);
  writer.add(name + ".bias", {layer.outputs}, layer.bias);
}

void add(SafetensorsWriter& writer, const std::string& name, const std::vector<HeadLinear>& stack) {
  for (size_t i = 0; i < stack.size(); ++i) add(writer, name + "." + std::to_string(i), stack[i]);
}

}  // namespace

Result<LengthHead> LengthHead::load(const std::string& path) {
  TAILOR_ASSIGN(const SafetensorsFile file, SafetensorsFile::open(path));
  const auto format = file.metadata().find("format");
  if (format == file.metadata().end() || format->second != kFormat) {
    return fail(ErrorCode::kInvalidArgument,
                path + ": expected a length head (format " + kFormat + "), found " +
                    (format == file.metadata().end() ? "a file without a format"
                                                     : weights::printable(format->second)));
  }
  const Reader reader(file);
  HeadWeights weights;
  auto info = read_info(reader);
  if (!info) {
    const bool named = info.error().message.starts_with(path);
    return named ? fail(info.error()) : fail_with(path, info.error());
  }
  weights.info = std::move(*info);
  TAILOR_TRY(each_setting(weights, [&](const char* name, double* value) -> Result<void> {
    TAILOR_ASSIGN(*value, reader.number(name));
    return {};
  }));
  TAILOR_ASSIGN(weights.mean, reader.values("input.mean", {weights.info.input_size}));
  TAILOR_ASSIGN(weights.deviation, reader.values("input.deviation", {weights.info.input_size}));
  TAILOR_ASSIGN(const double members, reader.number("members"));
  if (!(members >= 1 && members <= 64))
    return fail(ErrorCode::kDataLoss,
                path + ": expected 1 to 64 members, found " + shortest(members));
  for (int m = 0; m < static_cast<int>(members); ++m) {
    TAILOR_ASSIGN(HeadMember member, reader.member("m" + std::to_string(m)));
    weights.members.push_back(std::move(member));
  }
  return make(std::move(weights), path);
}

Result<void> save_head(const HeadWeights& weights, const std::string& path) {
  SafetensorsWriter writer;
  const HeadInfo& info = weights.info;
  writer.metadata() = {{"format", kFormat},
                       {"kind", info.kind},
                       {"encoder", info.encoder},
                       {"encoder_fingerprint", info.encoder_fingerprint},
                       {"model_fingerprint", info.model_fingerprint},
                       {"model_name", info.model_name},
                       {"trained_on", info.trained_on},
                       {"layer", std::to_string(info.layer)},
                       {"takes_generated", info.takes_generated ? "1" : "0"},
                       {"input_size", std::to_string(info.input_size)},
                       {"nu", shortest(info.nu)},
                       {"population_mu", shortest(static_cast<double>(info.population.mu))},
                       {"population_sigma", shortest(static_cast<double>(info.population.sigma))},
                       {"members", std::to_string(weights.members.size())}};
  TAILOR_TRY(each_setting(weights, [&](const char* name, const double* value) -> Result<void> {
    writer.metadata()[name] = shortest(*value);
    return {};
  }));
  writer.add("input.mean", {info.input_size}, weights.mean);
  writer.add("input.deviation", {info.input_size}, weights.deviation);
  for (size_t m = 0; m < weights.members.size(); ++m) {
    const HeadMember& member = weights.members[m];
    const std::string name = "m" + std::to_string(m);
    for (size_t i = 0; i < member.trunk.size(); ++i) {
      const std::string layer = name + ".trunk." + std::to_string(i);
      const int64_t width = member.trunk[i].linear.outputs;
      add(writer, layer, member.trunk[i].linear);
      writer.add(layer + ".norm.weight", {width}, member.trunk[i].norm_weight);
      writer.add(layer + ".norm.bias", {width}, member.trunk[i].norm_bias);
    }
    add(writer, name + ".mu", member.mu);
    add(writer, name + ".sigma", member.sigma);
    add(writer, name + ".bins", member.bins);
  }
  return writer.write(path);
}

}  // namespace tailor::predict
