// What Tokenizer holds of libllama. Internal to model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <llama.h>

#include "model/tokenizer.h"

namespace hearth::model {

struct Tokenizer::Impl {
  struct Free {
    void operator()(llama_model* loaded) const { llama_model_free(loaded); }
  };
  std::unique_ptr<llama_model, Free> model;  // vocabulary only
  const llama_vocab* vocab = nullptr;        // part of model
  std::uint32_t n_vocab = 0;
  // Texts of the tokens that are found in a text before anything else: user-defined ones always, control
  // tokens when special tokens are parsed.
  std::vector<std::string> user_defined, control;
};

}  // namespace hearth::model
