#include "model/llama_log.h"

#include <mutex>

#include <llama.h>

#include "base/result.h"

namespace hearth::model {
namespace {

// libllama has one log for the process and calls it on the thread that works.
thread_local std::string* errors_of_this_thread = nullptr;

constexpr std::size_t kMaxErrorText = 4096;

}  // namespace

LlamaErrors::LlamaErrors() {
  HEARTH_CHECK(errors_of_this_thread == nullptr, "one LlamaErrors at a time");
  static std::once_flag silenced;
  std::call_once(silenced, [] {
    llama_log_set(
        [](auto level, const char* text, void*) {
          // Continuations of a line come with a level of their own and belong to nothing we keep.
          if (level == GGML_LOG_LEVEL_ERROR && errors_of_this_thread != nullptr &&
              errors_of_this_thread->size() < kMaxErrorText)
            errors_of_this_thread->append(text);
        },
        nullptr);
  });
  errors_of_this_thread = &text_;
}

LlamaErrors::~LlamaErrors() {
  errors_of_this_thread = nullptr;
}

std::string LlamaErrors::last() const {
  // "llama_model_load: error loading model: unknown tokenizer: 'x'" is followed by lines that say less.
  static constexpr std::string_view kMark = "error loading model: ";
  std::string_view text = text_;
  if (const auto mark = text.rfind(kMark); mark != std::string_view::npos)
    text.remove_prefix(mark + kMark.size());
  text = text.substr(0, text.find('\n'));
  static constexpr std::string_view kInner = "error loading model vocabulary: ";
  if (text.starts_with(kInner)) text.remove_prefix(kInner.size());
  return std::string(text);
}

}  // namespace hearth::model
