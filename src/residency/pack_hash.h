// The two hashes of a pack: BLAKE3 to prove that bytes are whole, XXH3-64 (seed 0) to check them each time
// they are read, at the speed of memory.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

namespace hearth::residency {

using Digest = std::array<std::uint8_t, 32>;

// Of bytes that come in pieces.
class Blake3 {
 public:
  Blake3();
  ~Blake3();
  Blake3(const Blake3&) = delete;
  Blake3& operator=(const Blake3&) = delete;
  void add(std::span<const std::uint8_t> bytes);
  [[nodiscard]] Digest digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};
[[nodiscard]] Digest blake3(std::span<const std::uint8_t> bytes);

class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(const Xxh3&) = delete;
  Xxh3& operator=(const Xxh3&) = delete;
  void add(std::span<const std::uint8_t> bytes);
  [[nodiscard]] std::uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};
[[nodiscard]] std::uint64_t xxh3(std::span<const std::uint8_t> bytes);

}  // namespace hearth::residency
