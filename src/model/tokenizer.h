// Tokenizer: text <-> token ids by libllama's vocabulary, loaded from the same GGUF file.
//
// Thread contract: const functions from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hearth::model {

using Token = std::int32_t;

class Tokenizer {
 public:
  // `path` must have passed ModelFile::open. Errors: kInvalidFile, kUnsupported when libllama cannot read the
  // vocabulary.
  [[nodiscard]] static Result<Tokenizer> load(const std::filesystem::path& path);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  struct EncodeOptions {
    bool add_special = true;  // BOS/EOS as the model's metadata says
    bool parse_special =
        false;  // special tokens written in the text become those tokens (chat templates: true)
  };
  [[nodiscard]] Result<std::vector<Token>> encode(std::string_view text, EncodeOptions options) const;
  // Bytes of one token; special tokens give "" unless `special`.
  [[nodiscard]] std::string piece(Token token, bool special = false) const;
  [[nodiscard]] std::string decode(std::span<const Token> tokens, bool special = false) const;

  [[nodiscard]] std::uint32_t n_vocab() const;
  [[nodiscard]] Token bos() const;  // -1 when there is none
  [[nodiscard]] Token eos() const;
  [[nodiscard]] bool ends_generation(Token token) const;  // EOS, EOT and their kin

  struct Impl;
  [[nodiscard]] const Impl& impl() const { return *impl_; }  // for model/sampler.cpp

 private:
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns a stream of token bytes into a stream of whole UTF-8 characters: incomplete tails wait for the next
// token.
class Utf8Stream {
 public:
  // Returns what is complete so far; invalid bytes become U+FFFD.
  [[nodiscard]] std::string push(std::string_view bytes);
  // The rest at the end of the text; an incomplete character becomes U+FFFD.
  [[nodiscard]] std::string finish();

 private:
  std::string pending_;
};

}  // namespace hearth::model
