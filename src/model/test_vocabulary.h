// Tiny vocabularies as GGUF files on disk, for tests only.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <format>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "model/test_model.h"

namespace hearth::model {

inline constexpr std::int32_t kNormal = 1;
inline constexpr std::int32_t kUnknown = 2;
inline constexpr std::int32_t kControl = 3;
inline constexpr std::int32_t kUserDefined = 4;
inline constexpr std::int32_t kByte = 6;

struct TestVocabulary {
  std::string kind;  // "llama" (SentencePiece) or "gpt2" (byte-level BPE)
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  std::vector<std::string> merges;
  std::vector<gguf::TestKey> keys;  // further ones, in place of those above where they have the same name

  explicit TestVocabulary(std::string its_kind) : kind(std::move(its_kind)) {}

  TestVocabulary& add(std::string text, float score = 0, std::int32_t type = kNormal) {
    texts.push_back(std::move(text));
    scores.push_back(score);
    types.push_back(type);
    return *this;
  }
  TestVocabulary& with(gguf::TestKey key) {
    keys.push_back(std::move(key));
    return *this;
  }

  [[nodiscard]] TinyModel model() const {
    TinyModel tiny("llama");
    tiny.set(gguf::string_key("tokenizer.ggml.model", kind));
    tiny.set(gguf::string_array_key("tokenizer.ggml.tokens", texts));
    std::string items;
    for (const float score : scores) items += gguf::f32_key("", score).payload;
    tiny.set(gguf::array_key("tokenizer.ggml.scores", 6, scores.size(), items));
    items.clear();
    for (const std::int32_t type : types) items += gguf::encoded(type);
    tiny.set(gguf::array_key("tokenizer.ggml.token_type", 5, types.size(), items));
    if (kind == "gpt2") tiny.set(gguf::string_array_key("tokenizer.ggml.merges", merges));
    for (const gguf::TestKey& key : keys) tiny.set(key);
    return tiny;
  }
};

// 0 <unk>, 1 <s>, 2 </s>, 3 + b the byte b, then pieces whose merges are easy to follow by hand.
inline TestVocabulary spm_vocabulary() {
  TestVocabulary v("llama");
  v.add("<unk>", 0, kUnknown).add("<s>", 0, kControl).add("</s>", 0, kControl);
  for (int byte = 0; byte < 256; ++byte) v.add(std::format("<0x{:02X}>", byte), 0, kByte);
  // 259 ...
  for (const std::string text : {"\xE2\x96\x81", "a", "b", "c", "ab",
                                 "\xE2\x96\x81"
                                 "ab",
                                 "bc", "abc"})
    v.add(text, -static_cast<float>(v.texts.size()));
  v.add("<|im_end|>", 0, kControl);  // 267
  return v;
}

// "hello" and " hello" are one token each; "hell" is another.
inline TestVocabulary bpe_vocabulary() {
  TestVocabulary v("gpt2");
  for (const std::string text :
       {"h", "e", "l", "o", "\xC4\xA0", "he", "ll", "hell", "hello", "\xC4\xA0hello", "\xC3\x83", "\xC2\xA9"})
    v.add(text);
  v.add("<|endoftext|>", 0, kControl);  // 12
  v.merges = {"h e", "l l", "he ll", "hell o", "\xC4\xA0 hello"};
  v.with(gguf::string_key("tokenizer.ggml.pre", "gpt-2"))
      .with(gguf::u32_key("tokenizer.ggml.eos_token_id", 12));
  v.with(gguf::u32_key("tokenizer.ggml.bos_token_id", 12));
  return v;
}

// A file of its own that is gone when the object is.
class TempFile {
 public:
  explicit TempFile(const std::string& bytes) {
    static std::atomic<int> count = 0;
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    std::string name = std::format("hearth-{}-{}-{}.gguf", test->test_suite_name(), test->name(), count++);
    for (char& c : name)
      if (c == '/') c = '_';
    path_ = std::filesystem::path(testing::TempDir()) / name;
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile() { std::filesystem::remove(path_); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace hearth::model
