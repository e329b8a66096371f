// The stamp that ties a file to the model it was made with: heads, length files, feature files and
// packed weights carry the model's fingerprint (weights/weight_files.h), "xxh3-" and 32
// hexadecimal digits, a hash of every byte. Files made before there was such a hash carry 32 digits
// alone, which came from samples and did not tell an edited model from the one it was. Pure.
#pragma once

#include <string>
#include <string_view>

namespace tailor {

inline constexpr std::string_view kStampPrefix = "xxh3-";

/// 32 hexadecimal digits alone: the older, sampled kind.
bool is_sampled_stamp(std::string_view stamp);

/// Whether a file with stamp `found` may be used with the model `wanted`. No stamp fits any model.
bool stamp_fits(std::string_view found, std::string_view wanted);

/// The sentence for a stamp that does not fit: "FILE was made with the model A, this one is B", or
/// for a stamp of the older kind the command that renews it. `model`: what --model is called there.
std::string stamp_misfit(const std::string& file, std::string_view found, std::string_view wanted,
                         const std::string& model = "MODEL");

}  // namespace tailor
