// SPDX-License-Identifier: Apache-2.0
// In place of that of the C library, which writes to a file, and a rule with files is refused. It holds also where NDEBUG
// is defined, as zig does with -O3: an assertion of a rule is how a mistake becomes a dead letter with a reason.
#include "watchfire_rule.h"

#undef assert
#define assert(condition) ((condition) ? (void)0 : wf_panic("assertion failed: %s", #condition))
#undef static_assert
#define static_assert _Static_assert
