// A text compared with a grammar by libllama, and texts drawn from one, byte by byte. For tests only.
#pragma once

#include <cmath>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <llama.h>

#include "model/test_vocabulary.h"
#include "model/tokenizer_impl.h"

namespace hearth::model {

inline const Tokenizer& byte_tokenizer() {
  static const Tokenizer loaded = [] {
    const TempFile file(spm_vocabulary().model().image().bytes);
    auto result = Tokenizer::load(file.path());
    HEARTH_CHECK(result.has_value(), result.error().message);
    return std::move(*result);
  }();
  return loaded;
}

class TestGrammar {
 public:
  explicit TestGrammar(const std::string& grammar)
      : sampler_(llama_sampler_init_grammar(byte_tokenizer().impl().vocab, grammar.c_str(), "root")) {
    HEARTH_CHECK(sampler_ != nullptr, grammar);
  }

  [[nodiscard]] bool matches(std::string_view text) {
    llama_sampler_reset(sampler_.get());
    for (const char c : text) {
      const llama_token token = token_of(static_cast<unsigned char>(c));
      if (!allows(token)) return false;
      llama_sampler_accept(sampler_.get(), token);
    }
    return allows(kEnd);
  }

  // A text drawn at random, or nothing where it has not ended after `most` bytes.
  [[nodiscard]] std::optional<std::string> draw(std::mt19937& random, std::size_t most) {
    llama_sampler_reset(sampler_.get());
    std::string text;
    while (text.size() < most) {
      std::vector<llama_token_data> candidates = {{kEnd, 0, 0}};
      for (int byte = 1; byte < 256; ++byte) candidates.push_back({token_of(byte), 0, 0});
      llama_token_data_array array{candidates.data(), candidates.size(), -1, false};
      llama_sampler_apply(sampler_.get(), &array);
      std::erase_if(candidates, [](const llama_token_data& c) { return std::isinf(c.logit); });
      HEARTH_CHECK(!candidates.empty(), "a grammar that leads nowhere");
      // Half of the draws that may end do, and structure is drawn more often than letters.
      const bool may_end = candidates[0].id == kEnd;
      if (may_end && (candidates.size() == 1 || random() % 2 == 0)) return text;
      std::vector<llama_token> some;
      for (const auto& candidate : candidates)
        if (candidate.id != kEnd)
          for (int n = std::string_view("\"]},").contains(static_cast<char>(candidate.id - kByte0)) ? 30 : 1;
               n > 0; --n)
            some.push_back(candidate.id);
      const llama_token token = some[random() % some.size()];
      llama_sampler_accept(sampler_.get(), token);
      text += static_cast<char>(token - kByte0);
    }
    return std::nullopt;
  }

 private:
  static constexpr llama_token kEnd = 2, kByte0 = 3;
  static llama_token token_of(int byte) { return kByte0 + byte; }
  bool allows(llama_token token) {
    llama_token_data candidate{token, 0, 0};
    llama_token_data_array array{&candidate, 1, -1, false};
    llama_sampler_apply(sampler_.get(), &array);
    return !std::isinf(candidate.logit);
  }
  struct Free {
    void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
  };
  std::unique_ptr<llama_sampler, Free> sampler_;
};

}  // namespace hearth::model
