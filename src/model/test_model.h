// Tiny models as GGUF files in memory, for tests only: valid ones of each architecture, made to be broken in
// one place.
#pragma once

#include <algorithm>
#include <cstdint>
#include <format>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/file.h"
#include "gguf/test_image.h"

namespace hearth::model {

// Numbers of the file format.
inline constexpr std::uint32_t kF32 = 0;
inline constexpr std::uint32_t kF16 = 1;
inline constexpr std::uint32_t kQ8_0 = 8;

// 2 layers, n_embd 64, 4 heads of 16 values, 2 KV heads, n_ff 96, 48 tokens, context 128; qwen3moe: 4 experts
// of width 32, 2 of them used. Architectures: gemma2, llama, phi3, qwen2, qwen3, qwen3moe.
class TinyModel {
 public:
  explicit TinyModel(std::string arch) : arch_(std::move(arch)) {
    set(gguf::string_key("general.architecture", arch_));
    set(gguf::string_key("general.name", "Tiny"));
    set(u32("context_length", 128));
    set(u32("embedding_length", 64));
    set(u32("block_count", 2));
    set(u32("feed_forward_length", 96));
    set(u32("attention.head_count", 4));
    set(u32("attention.head_count_kv", 2));
    set(gguf::f32_key(arch_ + ".attention.layer_norm_rms_epsilon", 1e-5F));
    add("token_embd.weight", {64, 48}, kF16);
    add("output_norm.weight", {64}, kF32);
    if (arch_ != "gemma2") add("output.weight", {64, 48}, kF16);
    if (arch_ == "qwen3moe") {
      set(u32("expert_count", 4));
      set(u32("expert_used_count", 2));
      set(u32("expert_feed_forward_length", 32));
    }
    for (int il = 0; il < 2; ++il) {
      const auto blk = [&](std::string_view name) { return std::format("blk.{}.{}", il, name); };
      add(blk("attn_norm.weight"), {64}, kF32);
      if (arch_ == "phi3") {
        add(blk("attn_qkv.weight"), {64, 128}, kF16);
      } else {
        add(blk("attn_q.weight"), {64, 64}, kF16);
        add(blk("attn_k.weight"), {64, 32}, kF16);
        add(blk("attn_v.weight"), {64, 32}, kF16);
      }
      add(blk("attn_output.weight"), {64, 64}, kF16);
      add(blk("ffn_norm.weight"), {64}, kF32);
      if (arch_ == "qwen3moe") {
        add(blk("ffn_gate_inp.weight"), {64, 4}, kF32);
        add(blk("ffn_gate_exps.weight"), {64, 32, 4}, kF16);
        add(blk("ffn_up_exps.weight"), {64, 32, 4}, kF16);
        add(blk("ffn_down_exps.weight"), {32, 64, 4}, kF16);
      } else {
        if (arch_ != "phi3") add(blk("ffn_gate.weight"), {64, 96}, kF16);
        add(blk("ffn_up.weight"), {64, arch_ == "phi3" ? 192 : 96}, kF16);
        add(blk("ffn_down.weight"), {96, 64}, kF16);
      }
      if (arch_ == "gemma2") {
        add(blk("post_attention_norm.weight"), {64}, kF32);
        add(blk("post_ffw_norm.weight"), {64}, kF32);
      }
      if (arch_ == "qwen2") {
        add(blk("attn_q.bias"), {64}, kF32);
        add(blk("attn_k.bias"), {32}, kF32);
        add(blk("attn_v.bias"), {32}, kF32);
      }
      if (arch_ == "qwen3" || arch_ == "qwen3moe") {
        add(blk("attn_q_norm.weight"), {16}, kF32);
        add(blk("attn_k_norm.weight"), {16}, kF32);
      }
    }
  }

  [[nodiscard]] gguf::TestKey u32(std::string_view suffix, std::uint32_t value) const {
    return gguf::u32_key(std::format("{}.{}", arch_, suffix), value);
  }
  [[nodiscard]] gguf::TestKey f32(std::string_view suffix, float value) const {
    return gguf::f32_key(std::format("{}.{}", arch_, suffix), value);
  }
  [[nodiscard]] gguf::TestKey text(std::string_view suffix, std::string_view value) const {
    return gguf::string_key(std::format("{}.{}", arch_, suffix), value);
  }
  [[nodiscard]] gguf::TestKey u32s(std::string_view suffix, const std::vector<std::uint32_t>& values) const {
    std::string items;
    for (const std::uint32_t value : values) items += gguf::encoded(value);
    return gguf::array_key(std::format("{}.{}", arch_, suffix), 4, values.size(), items);
  }

  // Adds or replaces.
  TinyModel& set(gguf::TestKey key) {
    drop_key(key.key);
    file_.keys.push_back(std::move(key));
    return *this;
  }
  TinyModel& drop_key(std::string_view key) {
    std::erase_if(file_.keys, [&](const gguf::TestKey& k) { return k.key == key; });
    return *this;
  }
  TinyModel& drop(std::string_view suffix) { return drop_key(std::format("{}.{}", arch_, suffix)); }

  // Adds or replaces.
  TinyModel& add(std::string name, std::vector<std::int64_t> ne, std::uint32_t type) {
    drop_tensor(name);
    file_.tensors.push_back({std::move(name), std::move(ne), type, 0});
    return *this;
  }
  TinyModel& drop_tensor(std::string_view name) {
    std::erase_if(file_.tensors, [&](const gguf::TestTensor& t) { return t.name == name; });
    return *this;
  }

  // Values and bytes of a block, from the description of the file format.
  static std::pair<std::uint64_t, std::uint64_t> block_of(std::uint32_t type) {
    switch (type) {
      case kF16:
        return {1, 2};
      case kQ8_0:
        return {32, 34};
      case 9:
        return {32, 36};  // Q8_1
      case 28:
        return {1, 8};  // F64
      default:
        return {1, 4};  // F32, I32
    }
  }

  // The bytes of the file; the data of the tensors lie side by side, as libllama demands.
  [[nodiscard]] gguf::Image image() const {
    gguf::TestFile file = file_;
    std::uint64_t offset = 0;
    for (gguf::TestTensor& tensor : file.tensors) {
      tensor.offset = offset;
      std::uint64_t values = 1;
      for (const std::int64_t n : tensor.ne) values *= static_cast<std::uint64_t>(n);
      const auto [block, bytes] = block_of(tensor.type);
      offset += (values / block * bytes + 31) / 32 * 32;
    }
    file.data_bytes = offset;
    return gguf::build(file);
  }
  [[nodiscard]] Result<gguf::File> parse() const {
    const gguf::Image built = image();
    return gguf::File::parse(built.span(), built.bytes.size());
  }

 private:
  std::string arch_;
  gguf::TestFile file_;
};

}  // namespace hearth::model
