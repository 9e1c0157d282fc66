#include "net/sealed_stream.h"

#include <sodium.h>

#include "base/result.h"

namespace hearth::net {
namespace {

static_assert(kStreamHeaderBytes == crypto_secretstream_xchacha20poly1305_HEADERBYTES);
static_assert(kSealBytes == crypto_secretstream_xchacha20poly1305_ABYTES);
static_assert(std::tuple_size_v<StreamSecret> == crypto_kdf_KEYBYTES);
static_assert(std::tuple_size_v<StreamSecret> == crypto_secretstream_xchacha20poly1305_KEYBYTES);

constexpr char kKeyContext[crypto_kdf_CONTEXTBYTES + 1] = "hearthDL";

void require_sodium() {
  static const bool ready = sodium_init() >= 0;
  HEARTH_CHECK(ready, "libsodium cannot start");
}

constexpr std::uint64_t kTagSubkey = 2;  // 0 and 1 are the directions' keys
// A larger copy of a frame lives only as long as it is needed.
constexpr std::size_t kKeptBytes = 1 << 20;

struct DirectionKey {
  DirectionKey(const StreamSecret& secret, Direction direction) {
    require_sodium();
    crypto_kdf_derive_from_key(bytes.data(), bytes.size(), static_cast<std::uint64_t>(direction), kKeyContext,
                               secret.data());
  }
  ~DirectionKey() { sodium_memzero(bytes.data(), bytes.size()); }
  DirectionKey(const DirectionKey&) = delete;
  DirectionKey& operator=(const DirectionKey&) = delete;
  StreamSecret bytes;
};

}  // namespace

StreamSecret new_stream_secret() {
  require_sodium();
  StreamSecret secret;
  randombytes_buf(secret.data(), secret.size());
  return secret;
}

StreamTag tag_of(const StreamSecret& secret) {
  require_sodium();
  StreamTag tag;
  crypto_kdf_derive_from_key(tag.data(), tag.size(), kTagSubkey, kKeyContext, secret.data());
  return tag;
}

struct SealedWriter::State {
  crypto_secretstream_xchacha20poly1305_state sodium;
  ~State() { sodium_memzero(&sodium, sizeof sodium); }
};
struct SealedReader::State {
  crypto_secretstream_xchacha20poly1305_state sodium;
  ~State() { sodium_memzero(&sodium, sizeof sodium); }
};

SealedWriter::SealedWriter(const StreamSecret& secret, Direction direction)
    : state_(std::make_unique<State>()) {
  const DirectionKey key(secret, direction);
  crypto_secretstream_xchacha20poly1305_init_push(&state_->sodium, header_.data(), key.bytes.data());
}
SealedWriter::~SealedWriter() = default;
SealedWriter::SealedWriter(SealedWriter&&) noexcept = default;
SealedWriter& SealedWriter::operator=(SealedWriter&&) noexcept = default;

void SealedWriter::seal(std::span<const std::uint8_t> head, std::span<const std::uint8_t> body,
                        std::vector<std::uint8_t>& out) {
  plain_.assign(head.begin(), head.end());
  plain_.insert(plain_.end(), body.begin(), body.end());
  const std::size_t sealed = plain_.size() + kSealBytes;
  HEARTH_CHECK(sealed <= UINT32_MAX, "a record longer than its length can say");
  const std::size_t at = out.size();
  out.resize(at + kLengthBytes + sealed);
  for (std::size_t i = 0; i < kLengthBytes; ++i) out[at + i] = static_cast<std::uint8_t>(sealed >> (8 * i));
  crypto_secretstream_xchacha20poly1305_push(&state_->sodium, out.data() + at + kLengthBytes, nullptr,
                                             plain_.data(), plain_.size(), nullptr, 0, 0);
  if (plain_.capacity() > kKeptBytes) plain_ = {};
}

SealedReader::SealedReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
SealedReader::~SealedReader() = default;
SealedReader::SealedReader(SealedReader&&) noexcept = default;
SealedReader& SealedReader::operator=(SealedReader&&) noexcept = default;

std::optional<SealedReader> SealedReader::begin(const StreamSecret& secret, Direction direction,
                                                std::span<const std::uint8_t, kStreamHeaderBytes> header) {
  const DirectionKey key(secret, direction);
  auto state = std::make_unique<State>();
  if (crypto_secretstream_xchacha20poly1305_init_pull(&state->sodium, header.data(), key.bytes.data()) != 0)
    return std::nullopt;
  return SealedReader(std::move(state));
}

std::optional<std::vector<std::uint8_t>> SealedReader::open(std::span<const std::uint8_t> record) {
  if (record.size() < kSealBytes) return std::nullopt;
  std::vector<std::uint8_t> contents(record.size() - kSealBytes);
  unsigned char tag = 0;
  if (crypto_secretstream_xchacha20poly1305_pull(&state_->sodium, contents.data(), nullptr, &tag,
                                                 record.data(), record.size(), nullptr, 0) != 0 ||
      tag != 0)
    return std::nullopt;
  return contents;
}

}  // namespace hearth::net
