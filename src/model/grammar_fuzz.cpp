// Grammars and JSON schemas from anywhere: what check_grammar() lets through libllama takes, and no schema
// gives a grammar that does not pass.
#include <cstddef>
#include <cstdint>
#include <string>

#include <llama.h>

#include "model/grammar_check.h"
#include "model/json_schema.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hearth;
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    auto grammar = model::grammar_of_json_schema(text);
    if (!grammar) return 0;
    text = std::move(*grammar);
    HEARTH_CHECK(model::check_grammar(text).has_value(), text);
  } else if (text.contains('<') || !model::check_grammar(text)) {
    return 0;  // without a vocabulary libllama knows no tokens
  }
  llama_sampler* sampler = llama_sampler_init_grammar(nullptr, text.c_str(), "root");
  HEARTH_CHECK(sampler != nullptr, text);
  llama_sampler_free(sampler);
  return 0;
}
