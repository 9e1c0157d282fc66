#include "net/sealed_stream.h"

#include <algorithm>

#include <sodium.h>

#include "base/result.h"

namespace hearth::net {
namespace {

static_assert(kStreamHeaderBytes + sizeof(std::uint64_t) == crypto_aead_aegis256_NPUBBYTES);
static_assert(kSealBytes == crypto_aead_aegis256_ABYTES);
static_assert(std::tuple_size_v<StreamSecret> == crypto_kdf_KEYBYTES);
static_assert(std::tuple_size_v<StreamSecret> == crypto_aead_aegis256_KEYBYTES);

constexpr char kKeyContext[crypto_kdf_CONTEXTBYTES + 1] = "hearthDL";

void require_sodium() {
  static const bool ready = sodium_init() >= 0;
  HEARTH_CHECK(ready, "libsodium cannot start");
}

constexpr std::uint64_t kTagSubkey = 2;  // 0 and 1 are the directions' keys

template <class Bytes>
Bytes random_bytes() {
  require_sodium();
  Bytes bytes;
  randombytes_buf(bytes.data(), bytes.size());
  return bytes;
}

}  // namespace

StreamSecret new_stream_secret() {
  return random_bytes<StreamSecret>();
}

StreamTag tag_of(const StreamSecret& secret) {
  require_sodium();
  StreamTag tag;
  crypto_kdf_derive_from_key(tag.data(), tag.size(), kTagSubkey, kKeyContext, secret.data());
  return tag;
}

RecordKey::RecordKey(const StreamSecret& secret, Direction direction,
                     std::span<const std::uint8_t, kStreamHeaderBytes> header) {
  require_sodium();
  crypto_kdf_derive_from_key(key_.data(), key_.size(), static_cast<std::uint64_t>(direction), kKeyContext,
                             secret.data());
  std::ranges::copy(header, nonce_.begin());
}
RecordKey::~RecordKey() {
  wipe();
}
RecordKey::RecordKey(RecordKey&& other) noexcept : key_(other.key_), nonce_(other.nonce_) {
  other.wipe();
}
RecordKey& RecordKey::operator=(RecordKey&& other) noexcept {
  if (this == &other) return *this;
  key_ = other.key_;
  nonce_ = other.nonce_;
  other.wipe();
  return *this;
}

void RecordKey::next() {
  sodium_increment(nonce_.data() + kStreamHeaderBytes, nonce_.size() - kStreamHeaderBytes);
}

void RecordKey::wipe() {
  sodium_memzero(key_.data(), key_.size());
  sodium_memzero(nonce_.data(), nonce_.size());
}

SealedWriter::SealedWriter(const StreamSecret& secret, Direction direction)
    : header_(random_bytes<StreamHeader>()), key_(secret, direction, header_) {}

void SealedWriter::seal(std::span<const std::uint8_t> head, std::span<const std::uint8_t> body,
                        std::vector<std::uint8_t>& out) {
  const std::size_t sealed = head.size() + body.size() + kSealBytes;
  HEARTH_CHECK(sealed <= UINT32_MAX, "a record longer than its length can say");
  const std::size_t at = out.size();
  out.resize(at + kLengthBytes + sealed);
  for (std::size_t i = 0; i < kLengthBytes; ++i) out[at + i] = static_cast<std::uint8_t>(sealed >> (8 * i));
  // In place: no second copy of a large frame.
  std::uint8_t* const record = out.data() + at + kLengthBytes;
  std::ranges::copy(body, std::ranges::copy(head, record).out);
  crypto_aead_aegis256_encrypt(record, nullptr, record, sealed - kSealBytes, nullptr, 0, nullptr,
                               key_.nonce(), key_.bytes());
  key_.next();
}

std::optional<std::vector<std::uint8_t>> SealedReader::open(std::span<const std::uint8_t> record) {
  if (record.size() < kSealBytes) return std::nullopt;
  std::vector<std::uint8_t> contents(record.size() - kSealBytes);
  if (crypto_aead_aegis256_decrypt(contents.data(), nullptr, nullptr, record.data(), record.size(), nullptr,
                                   0, key_.nonce(), key_.bytes()) != 0)
    return std::nullopt;
  key_.next();
  return contents;
}

}  // namespace hearth::net
