#include "model/vocabulary_check.h"

#include <cmath>
#include <format>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/text.h"
#include "model/limits.h"

namespace hearth::model {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kScores = "tokenizer.ggml.scores";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kMerges = "tokenizer.ggml.merges";

constexpr std::int64_t kByteType = 6;

// Ids that change what is generated or where it ends.
constexpr std::string_view kSpecialIds[] = {"bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id",
                                            "unknown_token_id"};

std::unexpected<Error> wrong_type(std::string_view key, const gguf::Value& value, std::string_view expected) {
  return fail(ErrorCode::kInvalidFile, "key {} is {}, expected {}", quote(key), gguf::type_name(value),
              expected);
}

Result<> check_size(std::string_view key, std::size_t got, std::size_t n_tokens) {
  if (got == n_tokens) return {};
  return fail(ErrorCode::kInvalidFile, "key {} has {} elements, expected one for each of the {} tokens",
              quote(key), got, n_tokens);
}

// libllama asserts that no two tokens have the same text, as it reads them: up to the first zero byte, and an
// empty one as "[EMPTY_<id>]".
Result<> check_texts(const gguf::StringArray& tokens) {
  std::vector<std::string> stand_ins;
  stand_ins.reserve(tokens.size());
  std::unordered_map<std::string_view, std::size_t> ids;
  ids.reserve(tokens.size());
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    std::string_view text = tokens[id];
    text = text.substr(0, text.find('\0'));
    if (text.size() > kMaxPieceBytes)
      return fail(ErrorCode::kInvalidFile, "token {} has {} bytes, expected at most {}", id, text.size(),
                  kMaxPieceBytes);
    if (text.empty()) text = stand_ins.emplace_back(std::format("[EMPTY_{}]", id));
    if (const auto [first, is_new] = ids.emplace(text, id); !is_new)
      return fail(ErrorCode::kInvalidFile,
                  "tokens {} and {} have the same text {}; expected every token once", first->second, id,
                  quote(text));
  }
  return {};
}

bool is_byte_piece(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEFabcdef";
  return text.size() == 6 && text.starts_with("<0x") && text[5] == '>' && kHex.contains(text[3]) &&
         kHex.contains(text[4]);
}

template <class T>
Result<> check_types(const std::vector<T>& types, const gguf::StringArray& tokens, bool is_spm) {
  HEARTH_TRY_VOID(check_size(kTypes, types.size(), tokens.size()));
  for (std::size_t id = 0; id < types.size(); ++id) {
    if (std::int64_t{types[id]} != kByteType) continue;
    // libllama reads the two digits without looking.
    if (!is_spm)
      return fail(ErrorCode::kInvalidFile,
                  "token {} {} is marked as a byte, which BPE vocabularies do not have", id,
                  quote(tokens[id]));
    if (!is_byte_piece(tokens[id]))
      return fail(ErrorCode::kInvalidFile, "token {} {} is marked as a byte, expected a text like '<0x0A>'",
                  id, quote(tokens[id]));
  }
  return {};
}

Result<> check_scores(const gguf::Value& value, std::size_t n_tokens) {
  const auto* scores = std::get_if<std::vector<float>>(&value);
  if (scores == nullptr) return wrong_type(kScores, value, "array of f32");
  HEARTH_TRY_VOID(check_size(kScores, scores->size(), n_tokens));
  // Merges are ordered by score; NaN has no place in an order.
  for (std::size_t id = 0; id < scores->size(); ++id)
    if (std::isnan((*scores)[id]))
      return fail(ErrorCode::kInvalidFile, "key {}: the score of token {} is NaN", quote(kScores), id);
  return {};
}

template <class T>
Result<> check_ids(std::string_view key, const std::vector<T>& ids, std::size_t n_tokens) {
  for (const T id : ids)
    if (std::cmp_less(id, 0) || std::cmp_greater_equal(id, n_tokens))
      return fail(ErrorCode::kInvalidFile, "key {} names token {}, but there are {}", quote(key), id,
                  n_tokens);
  return {};
}

Result<> check_special_ids(const gguf::File& file, std::size_t n_tokens) {
  for (const std::string_view suffix : kSpecialIds) {
    const std::string key = std::format("tokenizer.ggml.{}", suffix);
    HEARTH_TRY(const auto id, file.optional_u32(key));
    if (id && *id >= n_tokens)
      return fail(ErrorCode::kInvalidFile, "key {} is {}, but there are {} tokens", quote(key), *id,
                  n_tokens);
  }
  constexpr std::string_view kSuppressed = "tokenizer.ggml.suppress_tokens";
  const gguf::Value* suppressed = file.find(kSuppressed);
  if (suppressed == nullptr) return {};
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(suppressed))
    return check_ids(kSuppressed, *ids, n_tokens);
  if (const auto* ids = std::get_if<std::vector<std::uint32_t>>(suppressed))
    return check_ids(kSuppressed, *ids, n_tokens);
  return wrong_type(kSuppressed, *suppressed, "array of i32");
}

}  // namespace

Result<> check_vocabulary(const gguf::File& file) {
  HEARTH_TRY(const auto kind, file.optional_string("tokenizer.ggml.model"));
  const gguf::Value* tokens_value = file.find(kTokens);
  if (!kind || tokens_value == nullptr)
    return fail(ErrorCode::kUnsupported, "the file has no vocabulary (key {} is missing)",
                quote(kind ? kTokens : "tokenizer.ggml.model"));
  const bool is_spm = *kind == "llama";
  const bool is_bpe = *kind == "gpt2";
  if (!is_spm && !is_bpe)
    return fail(
        ErrorCode::kUnsupported,
        "key 'tokenizer.ggml.model' is {}; supported are 'llama' (SentencePiece) and 'gpt2' (byte-level BPE)",
        quote(*kind));

  const auto* tokens = std::get_if<gguf::StringArray>(tokens_value);
  if (tokens == nullptr) return wrong_type(kTokens, *tokens_value, "array of strings");
  if (tokens->empty() || tokens->size() > kMaxVocab)
    return fail(ErrorCode::kInvalidFile, "key {} has {} tokens, expected 1 to {}", quote(kTokens),
                tokens->size(), kMaxVocab);
  HEARTH_TRY_VOID(check_texts(*tokens));

  if (const gguf::Value* types = file.find(kTypes)) {
    if (const auto* as_i32 = std::get_if<std::vector<std::int32_t>>(types))
      HEARTH_TRY_VOID(check_types(*as_i32, *tokens, is_spm));
    else if (const auto* as_u32 = std::get_if<std::vector<std::uint32_t>>(types))
      HEARTH_TRY_VOID(check_types(*as_u32, *tokens, is_spm));
    else
      return wrong_type(kTypes, *types, "array of i32");
  }
  if (const gguf::Value* scores = file.find(kScores)) HEARTH_TRY_VOID(check_scores(*scores, tokens->size()));
  if (is_bpe) {
    const gguf::Value* merges = file.find(kMerges);
    if (merges == nullptr)
      return fail(ErrorCode::kInvalidFile, "key {} is missing; a vocabulary of kind 'gpt2' needs it",
                  quote(kMerges));
    if (!std::holds_alternative<gguf::StringArray>(*merges))
      return wrong_type(kMerges, *merges, "array of strings");
  }
  return check_special_ids(file, tokens->size());
}

}  // namespace hearth::model
