#include "probe.h"

namespace hashfast::index::portable {
namespace {

struct Simd : Plain {};

}  // namespace

const Probes probes{probe<Simd, Nearest>, probe<Simd, Within>};

}  // namespace hashfast::index::portable
