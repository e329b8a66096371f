#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace tailor {

void check_failed(const char* expression, const char* file, int line, const char* what) {
  std::fprintf(stderr, "tailor: broken invariant: %s (%s) at %s:%d\n", what, expression, file,
               line);
  std::fflush(stderr);
  std::abort();
}

}  // namespace tailor
