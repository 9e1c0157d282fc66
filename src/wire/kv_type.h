// The types that keys and values can be stored in, with llama.cpp's names and the numbers of the wire.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace hearth::wire {

enum class KvType : std::uint8_t {
  kF32 = 1,
  kF16 = 2,
  kQ8_0 = 3,
  kQ5_1 = 4,
  kQ5_0 = 5,
  kQ4_1 = 6,
  kQ4_0 = 7,
};

struct KvTypeTraits {
  KvType type;
  std::string_view name;
  bool quantized;  // in blocks of kKvBlock values
};
inline constexpr std::array<KvTypeTraits, 7> kKvTypes = {{
    {KvType::kF32, "f32", false},
    {KvType::kF16, "f16", false},
    {KvType::kQ8_0, "q8_0", true},
    {KvType::kQ5_1, "q5_1", true},
    {KvType::kQ5_0, "q5_0", true},
    {KvType::kQ4_1, "q4_1", true},
    {KvType::kQ4_0, "q4_0", true},
}};
inline constexpr std::uint32_t kKvBlock = 32;

// `type` is one of the enumeration: receivers have checked it.
[[nodiscard]] constexpr const KvTypeTraits& traits(KvType type) {
  return kKvTypes[static_cast<std::size_t>(type) - 1];
}
[[nodiscard]] constexpr std::optional<KvType> kv_type_named(std::string_view name) {
  for (const KvTypeTraits& one : kKvTypes)
    if (one.name == name) return one.type;
  return std::nullopt;
}

// Of keys and of values; from one type where both are the same.
struct KvTypes {
  KvType k = KvType::kF16, v = KvType::kF16;
  constexpr KvTypes() = default;
  constexpr KvTypes(KvType both) : k(both), v(both) {}  // NOLINT(google-explicit-constructor)
  constexpr KvTypes(KvType keys, KvType values) : k(keys), v(values) {}
  friend bool operator==(const KvTypes&, const KvTypes&) = default;
};

}  // namespace hearth::wire
