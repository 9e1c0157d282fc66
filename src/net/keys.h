// KeyPair: the CURVE key pair that is a device's identity, and the small text file that holds it.
//
// docs/reference/key-file.md is the format page. The secret never leaves this module except as the socket
// option of an encrypted socket; it is wiped when the pair is destroyed. Keys are raw 32 bytes and
// hexadecimal text everywhere in hearth; Z85, ZeroMQ's text form, exists only here.
//
// Thread contract: values; no shared state.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/device_key.h"
#include "base/result.h"

namespace hearth::net {

class KeyPair {
 public:
  using Raw = std::array<std::uint8_t, 32>;

  // A fresh pair from the operating system's random source. kUnsupported when libzmq was built without CURVE.
  [[nodiscard]] static Result<KeyPair> generate();
  // The pair of a known secret; the public key is computed.
  [[nodiscard]] static Result<KeyPair> from_secret(std::span<const std::uint8_t, 32> secret);
  // Reads a key file. kNotFound, kIo; kInvalidFile when others may read it, when the text breaks the format,
  // or when the public key is not the secret's.
  [[nodiscard]] static Result<KeyPair> load(const std::filesystem::path& path);
  // Writes a new key file, mode 0600, complete or not at all. kInvalidArgument when `path` exists: an
  // identity is never overwritten.
  [[nodiscard]] Result<> save(const std::filesystem::path& path) const;

  [[nodiscard]] const DeviceKey& public_key() const { return public_; }
  [[nodiscard]] std::span<const std::uint8_t, 32> secret() const { return secret_; }
  // A second copy of the secret, on purpose.
  [[nodiscard]] KeyPair clone() const;

  KeyPair(KeyPair&& other) noexcept;
  KeyPair& operator=(KeyPair&& other) noexcept;
  KeyPair(const KeyPair&) = delete;
  KeyPair& operator=(const KeyPair&) = delete;
  ~KeyPair();

 private:
  KeyPair() = default;

  DeviceKey public_;
  Raw secret_{};
};

// A key file in memory, without a name: for child processes, which inherit it and read it under path(). Gone
// when the last process that has it open ends, however it ends.
class UnnamedKeyFile {
 public:
  // kIo when the system gives no memory for it.
  [[nodiscard]] static Result<UnnamedKeyFile> make(const KeyPair& pair);
  UnnamedKeyFile(UnnamedKeyFile&& other) noexcept;
  UnnamedKeyFile(const UnnamedKeyFile&) = delete;
  UnnamedKeyFile& operator=(const UnnamedKeyFile&) = delete;
  ~UnnamedKeyFile();

  [[nodiscard]] std::filesystem::path path() const;

 private:
  explicit UnnamedKeyFile(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

// 40 characters of ZeroMQ's base-85 text.
[[nodiscard]] std::string z85_encode(std::span<const std::uint8_t, 32> raw);
// kInvalidArgument unless `text` is 40 characters of Z85.
[[nodiscard]] Result<KeyPair::Raw> z85_decode(std::string_view text);

}  // namespace hearth::net
