#include "../cpu_level.h"

#include <torch/csrc/stable/library.h>

namespace hashfast {
namespace {

int64_t cpu_level_op() { return static_cast<int64_t>(cpu_level()); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hashfast, CompositeExplicitAutograd, m) {
  m.impl("cpu_level", TORCH_BOX(&cpu_level_op));
}

}  // namespace hashfast
