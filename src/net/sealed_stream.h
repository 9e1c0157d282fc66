// SealedStream: records on a byte stream, each encrypted and authenticated, in order and each once:
// libsodium's secretstream (XChaCha20-Poly1305) under a key that both ends have from an encrypted control
// lane. docs/reference/link.md is the format page.
//
// No sockets. A forged, repeated, lost or reordered record does not open.
//
// Thread contract: one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace hearth::net {

using StreamSecret = std::array<std::uint8_t, 32>;

// The two directions of a connection have keys of their own, derived from the secret.
enum class Direction : std::uint8_t { kForward, kBack };

inline constexpr std::size_t kStreamHeaderBytes = 24;
inline constexpr std::size_t kLengthBytes = 4;
// What sealing adds to a record, without its length.
inline constexpr std::size_t kSealBytes = 17;

// Names a secret without telling it: what a connection begins with, so that the listener finds the secret and
// nobody else can claim the name.
using StreamTag = std::array<std::uint8_t, 16>;
[[nodiscard]] StreamTag tag_of(const StreamSecret& secret);

// 32 bytes of the operating system's random source.
[[nodiscard]] StreamSecret new_stream_secret();

class SealedWriter {
 public:
  SealedWriter(const StreamSecret& secret, Direction direction);
  ~SealedWriter();
  SealedWriter(SealedWriter&&) noexcept;
  SealedWriter& operator=(SealedWriter&&) noexcept;

  // Goes over the stream before the first record.
  [[nodiscard]] const std::array<std::uint8_t, kStreamHeaderBytes>& header() const { return header_; }
  // Appends a record that holds `head`, then `body`. Their sum fits a 32-bit length.
  void seal(std::span<const std::uint8_t> head, std::span<const std::uint8_t> body,
            std::vector<std::uint8_t>& out);

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::array<std::uint8_t, kStreamHeaderBytes> header_{};
  std::vector<std::uint8_t> plain_;
};

class SealedReader {
 public:
  // nullopt when the header cannot be one.
  [[nodiscard]] static std::optional<SealedReader> begin(
      const StreamSecret& secret, Direction direction,
      std::span<const std::uint8_t, kStreamHeaderBytes> header);
  ~SealedReader();
  SealedReader(SealedReader&&) noexcept;
  SealedReader& operator=(SealedReader&&) noexcept;

  // The contents of a record (without its length); nullopt when it is not the next one that was sealed.
  [[nodiscard]] std::optional<std::vector<std::uint8_t>> open(std::span<const std::uint8_t> record);

 private:
  struct State;
  explicit SealedReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace hearth::net
