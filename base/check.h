// Always-on checks of invariants. A broken invariant aborts the process: a lost worker is a tested
// path, wrong tokens are not. User input can never reach a check. (libtorch defines CHECK, hence
// the prefix.)
#pragma once

namespace tailor {
[[noreturn]] void check_failed(const char* expression, const char* file, int line,
                               const char* what);
}  // namespace tailor

#define TAILOR_CHECK(condition, what)     \
  (static_cast<bool>(condition) ? void(0) \
                                : ::tailor::check_failed(#condition, __FILE__, __LINE__, what))
