// libllama's log: silenced once for the process, errors kept for whoever asked. Internal to model.
#pragma once

#include <string>

namespace hearth::model {

// Keeps what libllama reports as errors on this thread while it lives. One at a time per thread.
class LlamaErrors {
 public:
  // The first one alive in a process silences libllama's log, which would go to stderr otherwise.
  LlamaErrors();
  LlamaErrors(const LlamaErrors&) = delete;
  LlamaErrors& operator=(const LlamaErrors&) = delete;
  ~LlamaErrors();

  // The last line, without libllama's function names; "" when there was none.
  [[nodiscard]] std::string last() const;

 private:
  std::string text_;
};

}  // namespace hearth::model
