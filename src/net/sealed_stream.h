// SealedStream: records on a byte stream, each encrypted and authenticated, in order and each once:
// AEGIS-256 (IETF draft-irtf-cfrg-aegis-aead; libsodium) under a key that both ends have from an encrypted
// control lane. docs/reference/link.md is the format page.
//
// No sockets. A forged, repeated, lost or reordered record does not open.
//
// Thread contract: one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
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
inline constexpr std::size_t kSealBytes = 32;

// Names a secret without telling it: what a connection begins with, so that the listener finds the secret and
// nobody else can claim the name.
using StreamTag = std::array<std::uint8_t, 16>;
[[nodiscard]] StreamTag tag_of(const StreamSecret& secret);

// 32 bytes of the operating system's random source.
[[nodiscard]] StreamSecret new_stream_secret();

// The first bytes of the nonces of one direction; random, told to the reader before the first record.
using StreamHeader = std::array<std::uint8_t, kStreamHeaderBytes>;

// Key of a direction and nonce of its next record; both are wiped at the end.
class RecordKey {
 public:
  RecordKey(const StreamSecret& secret, Direction direction,
            std::span<const std::uint8_t, kStreamHeaderBytes> header);
  ~RecordKey();
  RecordKey(RecordKey&& other) noexcept;
  RecordKey& operator=(RecordKey&& other) noexcept;

  [[nodiscard]] const std::uint8_t* bytes() const { return key_.data(); }
  [[nodiscard]] const std::uint8_t* nonce() const { return nonce_.data(); }
  // Every record has a nonce of its own.
  void next();

 private:
  void wipe();
  StreamSecret key_{};
  std::array<std::uint8_t, kStreamHeaderBytes + 8> nonce_{};  // header, record number
};

class SealedWriter {
 public:
  SealedWriter(const StreamSecret& secret, Direction direction);

  // Goes over the stream before the first record.
  [[nodiscard]] const StreamHeader& header() const { return header_; }
  // Appends a record that holds `head`, then `body`. Their sum fits a 32-bit length.
  void seal(std::span<const std::uint8_t> head, std::span<const std::uint8_t> body,
            std::vector<std::uint8_t>& out);

 private:
  StreamHeader header_;
  RecordKey key_;
};

class SealedReader {
 public:
  SealedReader(const StreamSecret& secret, Direction direction,
               std::span<const std::uint8_t, kStreamHeaderBytes> header)
      : key_(secret, direction, header) {}

  // The contents of a record (without its length); nullopt when it is not the next one that was sealed.
  [[nodiscard]] std::optional<std::vector<std::uint8_t>> open(std::span<const std::uint8_t> record);

 private:
  RecordKey key_;
};

}  // namespace hearth::net
