// Small models with random weights for tests: made when first asked for, in a folder that goes away with the
// process.
//
// Any thread may ask, one at a time.
#pragma once

#include <filesystem>
#include <string_view>

#include "synth/synth.h"

namespace hearth::testing {

// 8 layers, n_embd 256, n_ff 512, ember's vocabulary; heads as the architecture likes them (qwen3: n_embd_q
// is 2 n_embd).
[[nodiscard]] synth::SynthSpec small_spec(std::string_view arch, std::string_view type);

// Of a family: an architecture, or "mixtral", a llama of experts, or "olmo3", an olmo2 with sliding windows.
// Caps are low enough to matter.
[[nodiscard]] synth::SynthSpec family_spec(std::string_view family, std::string_view type);

// The file of that model, the first one of a split model. Throws std::runtime_error when it cannot be made.
[[nodiscard]] std::filesystem::path test_model(const synth::SynthSpec& spec);

// A model of the checkout, e.g. "ember-q8_0.gguf".
[[nodiscard]] std::filesystem::path shipped_model(std::string_view file);

}  // namespace hearth::testing
