// What `hearth show` prints of a model file, for people and as JSON (docs/reference/show.md).
//
// Everything in a file may come from anybody: texts for people hold printable characters only. Pure
// functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"
#include "cli/model_facts.h"
#include "gguf/file.h"
#include "model/model_file.h"

namespace hearth::cli {

struct ShowReport {
  const gguf::File& file;
  const model::ModelFile* model = nullptr;  // none: it cannot be run
  std::string why_not;                      // then
  FileFacts facts;
  TokenizerFacts tokenizer;
  TemplateFacts chat_template;
  std::vector<std::pair<std::string, std::uint64_t>> kv_bytes_per_1024;  // by type
  std::optional<MemoryNeeds> needs;
};

[[nodiscard]] std::string describe(const ShowReport& report);
[[nodiscard]] nlohmann::ordered_json to_json(const ShowReport& report);

// A line each; long arrays and strings are cut.
[[nodiscard]] std::string describe_metadata(const gguf::File& file);
[[nodiscard]] std::string describe_tensors(const gguf::File& file);
// Line breaks stay, all else that is not printable becomes "?", tabs a space.
[[nodiscard]] std::string printable_lines(std::string_view text);

}  // namespace hearth::cli
