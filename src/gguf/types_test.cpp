// The table of types against ggml's own.
#include "gguf/types.h"

#include <algorithm>
#include <cctype>
#include <string>

#include <ggml.h>
#include <gtest/gtest.h>

namespace hearth::gguf {
namespace {

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

TEST(Types, AgreeWithGgml) {
  int n_known = 0;
  for (int number = 0; number < GGML_TYPE_COUNT; ++number) {
    const auto type = static_cast<ggml_type>(number);
    const TypeInfo* info = type_info(static_cast<std::uint32_t>(number));
    // ggml keeps rows without a block size for the numbers of removed types.
    if (ggml_blck_size(type) == 0) {
      EXPECT_EQ(info, nullptr) << number;
      continue;
    }
    ASSERT_NE(info, nullptr) << number << " " << ggml_type_name(type);
    EXPECT_EQ(info->name, upper(ggml_type_name(type)));
    EXPECT_EQ(info->block_values, ggml_blck_size(type)) << info->name;
    EXPECT_EQ(info->block_bytes, ggml_type_size(type)) << info->name;
    ++n_known;
  }
  EXPECT_GE(n_known, 35);
}

TEST(Types, NumbersOutsideTheTableAreUnknown) {
  for (const std::uint32_t number : {std::uint32_t{GGML_TYPE_COUNT}, 44U, 255U, 65'536U, 0x80000000U, ~0U})
    EXPECT_EQ(type_info(number), nullptr) << number;
}

TEST(Types, ByEnumeratorIsTheSameRow) {
  EXPECT_EQ(&type_info(TensorType::kQ4_K), type_info(12U));
  EXPECT_EQ(type_info(TensorType::kQ4_K).name, "Q4_K");
  EXPECT_EQ(type_info(TensorType::kQ4_K).block_values, 256U);
  EXPECT_EQ(type_info(TensorType::kQ4_K).block_bytes, 144U);
}

}  // namespace
}  // namespace hearth::gguf
