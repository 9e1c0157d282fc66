// Proves that libllama can read a file's vocabulary without aborting. Internal to model.
#pragma once

#include "base/result.h"
#include "gguf/file.h"

namespace hearth::model {

// libllama throws for some broken vocabularies, which Tokenizer converts, but asserts for others; those are
// found here. kUnsupported when the file has no vocabulary, or for a kind of tokenizer that none of
// the architectures uses, kInvalidFile with the key otherwise.
[[nodiscard]] Result<> check_vocabulary(const gguf::File& file);

}  // namespace hearth::model
