// The key-value part of a synthetic model: architecture keys, and a tokenizer copied from a file or made.
#pragma once

#include <cstdint>
#include <memory>

#include <ggml.h>
#include <gguf.h>

#include "base/result.h"
#include "synth/synth.h"
#include "synth/tensor_plan.h"

namespace hearth::synth {

struct GgufDeleter {
  void operator()(gguf_context* context) const { gguf_free(context); }
};
using GgufPtr = std::unique_ptr<gguf_context, GgufDeleter>;

struct Metadata {
  GgufPtr gguf;        // keys only, no tensors
  PlannedModel model;  // with the vocabulary after padding
};

[[nodiscard]] Result<Metadata> make_metadata(const SynthSpec& spec);

}  // namespace hearth::synth
