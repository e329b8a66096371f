// Renews the fingerprint that a head (length_head.h), a length file (length_file.h) or a feature
// file (feature_file.h) carries of its model. Only the header is written anew, in one rename; what
// is behind it stays, byte for byte.
#pragma once

#include <string>

#include "base/result.h"

namespace tailor::predict {

/// The model's fingerprint in the file's header. Errors: NotFound; InvalidArgument (no such file:
/// says what was expected).
Result<std::string> stamp_of(const std::string& path);

/// Puts `now` where the file carries `older`; false: it carries `now` already. Errors: those of
/// stamp_of(); InvalidArgument (it carries another: names it); Unavailable (cannot be written).
Result<bool> restamp(const std::string& path, const std::string& older, const std::string& now);

}  // namespace tailor::predict
