#include "model/tokenizer.h"

#include <exception>
#include <limits>
#include <type_traits>
#include <utility>

#include "base/text.h"
#include "gguf/file.h"
#include "model/limits.h"
#include "model/llama_log.h"
#include "model/tokenizer_impl.h"
#include "model/vocabulary_check.h"

namespace hearth::model {
namespace {

Result<std::unique_ptr<Tokenizer::Impl>> load_vocabulary(const std::filesystem::path& path) {
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  // An empty list: a vocabulary needs no GPU.
  std::remove_pointer_t<decltype(params.devices)> no_devices[] = {nullptr};
  params.devices = no_devices;

  const LlamaErrors errors;
  auto impl = std::make_unique<Tokenizer::Impl>();
  try {
    impl->model.reset(llama_model_load_from_file(path.string().c_str(), params));
  } catch (const std::exception& e) {
    return fail(ErrorCode::kUnsupported, "libllama cannot read the vocabulary: {}", quote(e.what(), 200));
  }
  if (impl->model == nullptr) {
    const std::string reason = errors.last();
    return fail(ErrorCode::kUnsupported, "libllama cannot read the vocabulary: {}",
                reason.empty() ? "it gave no reason" : quote(reason, 200));
  }
  impl->vocab = llama_model_get_vocab(impl->model.get());
  impl->n_vocab = static_cast<std::uint32_t>(llama_vocab_n_tokens(impl->vocab));
  for (Token token = 0; std::cmp_less(token, impl->n_vocab); ++token) {
    const auto attributes = static_cast<unsigned>(llama_vocab_get_attr(impl->vocab, token));
    if ((attributes & LLAMA_TOKEN_ATTR_USER_DEFINED) != 0)
      impl->user_defined.emplace_back(llama_vocab_get_text(impl->vocab, token));
    else if ((attributes & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)) != 0)
      impl->control.emplace_back(llama_vocab_get_text(impl->vocab, token));
  }
  return impl;
}

// How often one of `texts` stands in `text`.
std::size_t count_occurrences(std::string_view text, std::span<const std::string> texts) {
  std::size_t count = 0;
  for (const std::string& wanted : texts) {
    if (wanted.empty()) continue;
    for (std::size_t at = text.find(wanted); at != std::string_view::npos;
         at = text.find(wanted, at + wanted.size()))
      ++count;
  }
  return count;
}

// Tokenizing with "add special tokens" asserts that these exist.
Result<> check_special(const llama_vocab* vocab) {
  if (llama_vocab_get_add_bos(vocab) && llama_vocab_bos(vocab) < 0)
    return fail(ErrorCode::kInvalidFile, "texts are to begin with a BOS token, but the vocabulary has none");
  if (llama_vocab_get_add_eos(vocab) && llama_vocab_eos(vocab) < 0)
    return fail(ErrorCode::kInvalidFile, "texts are to end with an EOS token, but the vocabulary has none");
  return {};
}

Result<std::unique_ptr<Tokenizer::Impl>> load_checked(const std::filesystem::path& path,
                                                      const gguf::File& file) {
  HEARTH_TRY_VOID(check_vocabulary(file));
  HEARTH_TRY(auto impl, load_vocabulary(path));
  HEARTH_TRY_VOID(check_special(impl->vocab));
  return impl;
}

}  // namespace

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& path) {
  HEARTH_TRY(const gguf::File file, gguf::File::open(path));
  auto impl = load_checked(path, file);
  if (!impl && !impl.error().message.starts_with(path.string()))
    return fail(impl.error().code, "{}: {}", path.string(), impl.error().message);
  if (!impl) return pass(std::move(impl));
  return Tokenizer(std::move(*impl));
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<std::vector<Token>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > kMaxTextBytes)
    return fail(ErrorCode::kInvalidArgument, "the text has {} bytes, expected at most {}; send it in parts",
                text.size(), kMaxTextBytes);
  std::size_t specials = count_occurrences(text, impl_->user_defined);
  if (options.parse_special) specials += count_occurrences(text, impl_->control);
  if (specials > kMaxSpecialsInText)
    return fail(ErrorCode::kInvalidArgument,
                "the text has {} special tokens, expected at most {}; send it in parts", specials,
                kMaxSpecialsInText);
  // Few texts have more tokens than bytes: only added ones and prefixes, so the first call mostly suffices.
  std::vector<Token> tokens(text.size() + 8);
  try {
    for (int attempt = 0; attempt < 2; ++attempt) {
      const std::int32_t count = llama_tokenize(
          impl_->vocab, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
          static_cast<std::int32_t>(tokens.size()), options.add_special, options.parse_special);
      if (count >= 0) {
        tokens.resize(static_cast<std::size_t>(count));
        return tokens;
      }
      if (count == std::numeric_limits<std::int32_t>::min()) break;
      tokens.resize(static_cast<std::size_t>(-count));
    }
  } catch (const std::exception& e) {
    // A vocabulary without byte tokens cannot write every text; broken UTF-8 ends here for some of them.
    return fail(ErrorCode::kInvalidArgument, "the model's vocabulary cannot express the text {}: {}",
                quote(text, 40), quote(e.what(), 100));
  }
  return fail(ErrorCode::kInvalidArgument, "the text {} gives too many tokens", quote(text, 40));
}

std::string Tokenizer::piece(Token token, bool special) const {
  if (token < 0 || std::cmp_greater_equal(token, impl_->n_vocab)) return "";
  std::string text(64, '\0');
  try {
    for (int attempt = 0; attempt < 2; ++attempt) {
      const std::int32_t count = llama_token_to_piece(impl_->vocab, token, text.data(),
                                                      static_cast<std::int32_t>(text.size()), 0, special);
      text.resize(static_cast<std::size_t>(count < 0 ? -count : count));
      if (count >= 0) return text;
    }
  } catch (const std::exception&) {
    // Nothing to show for a token that has no text.
  }
  return "";
}

std::string Tokenizer::decode(std::span<const Token> tokens, bool special) const {
  std::string text;
  for (const Token token : tokens) text += piece(token, special);
  return text;
}

std::uint32_t Tokenizer::n_vocab() const {
  return impl_->n_vocab;
}

Token Tokenizer::bos() const {
  return llama_vocab_bos(impl_->vocab);
}

Token Tokenizer::eos() const {
  return llama_vocab_eos(impl_->vocab);
}

bool Tokenizer::ends_generation(Token token) const {
  return llama_vocab_is_eog(impl_->vocab, token);
}

}  // namespace hearth::model
