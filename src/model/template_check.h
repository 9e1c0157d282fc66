// Bounds on a chat template before the template engine reads it. Internal to model.
#pragma once

#include <string_view>

#include "base/result.h"

namespace hearth::model {

// The engine parses and renders by recursion, without limits of its own: deep nesting or a macro that calls
// itself would overflow the stack. kUnsupported when `source` is larger, deeper or more recursive than any
// real template. A template is still a program of the model's author: loops over large ranges take the time
// they take.
[[nodiscard]] Result<> check_template(std::string_view source);

}  // namespace hearth::model
