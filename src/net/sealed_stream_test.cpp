// Records come out as they went in, in order and each once; anything else does not open. That the cipher is
// the one the format page names is checked against libsodium used directly.
#include "net/sealed_stream.h"

#include <gtest/gtest.h>
#include <sodium.h>

namespace hearth::net {
namespace {

using Bytes = std::vector<std::uint8_t>;

StreamSecret secret_of(std::uint8_t byte) {
  StreamSecret secret;
  secret.fill(byte);
  return secret;
}

// Records without their lengths.
std::vector<Bytes> seal_all(SealedWriter& writer, const std::vector<Bytes>& bodies) {
  std::vector<Bytes> records;
  for (const Bytes& body : bodies) {
    Bytes out;
    writer.seal(Bytes{7, 8}, body, out);
    const std::size_t length = out[0] | out[1] << 8 | out[2] << 16 | out[3] << 24;
    EXPECT_EQ(length, out.size() - kLengthBytes);
    EXPECT_EQ(length, body.size() + 2 + kSealBytes);
    records.emplace_back(out.begin() + kLengthBytes, out.end());
  }
  return records;
}

struct Pair {
  explicit Pair(const std::vector<Bytes>& bodies)
      : writer(secret_of(1), Direction::kForward), records(seal_all(writer, bodies)) {}
  SealedReader reader(const StreamSecret& secret = secret_of(1),
                      Direction direction = Direction::kForward) const {
    return {secret, direction, writer.header()};
  }
  SealedWriter writer;
  std::vector<Bytes> records;
};

TEST(SealedStream, RecordsOpenInOrder) {
  const Bytes large(100'000, 9);
  Pair pair({{}, {1, 2, 3}, large});
  SealedReader reader = pair.reader();
  EXPECT_EQ(reader.open(pair.records[0]), (Bytes{7, 8}));
  EXPECT_EQ(reader.open(pair.records[1]), (Bytes{7, 8, 1, 2, 3}));
  Bytes expected = {7, 8};
  expected.insert(expected.end(), large.begin(), large.end());
  EXPECT_EQ(reader.open(pair.records[2]), expected);
}

TEST(SealedStream, TheCipherIsTheOneOfTheFormatPage) {
  Pair pair({{}, {1, 2, 3}});
  StreamSecret key;
  crypto_kdf_derive_from_key(key.data(), key.size(), 0, "hearthDL", secret_of(1).data());
  Bytes nonce(pair.writer.header().begin(), pair.writer.header().end());
  nonce.resize(32);
  nonce[24] = 1;  // little-endian number of the second record
  Bytes plain(5);
  ASSERT_EQ(crypto_aead_aegis256_decrypt(plain.data(), nullptr, nullptr, pair.records[1].data(),
                                         pair.records[1].size(), nullptr, 0, nonce.data(), key.data()),
            0);
  EXPECT_EQ(plain, (Bytes{7, 8, 1, 2, 3}));
}

// Two streams under one secret (a connection made again) share no nonce.
TEST(SealedStream, EveryWriterHasAHeaderOfItsOwn) {
  EXPECT_NE(SealedWriter(secret_of(1), Direction::kForward).header(),
            SealedWriter(secret_of(1), Direction::kForward).header());
}

TEST(SealedStream, ARepeatedOrSkippedRecordDoesNotOpen) {
  Pair pair({{1}, {2}});
  SealedReader repeated = pair.reader();
  EXPECT_TRUE(repeated.open(pair.records[0]));
  EXPECT_FALSE(repeated.open(pair.records[0]));
  SealedReader skipped = pair.reader();
  EXPECT_FALSE(skipped.open(pair.records[1]));
}

TEST(SealedStream, NoBitMayChange) {
  Pair pair({{1, 2, 3}});
  for (std::size_t bit = 0; bit < pair.records[0].size() * 8; ++bit) {
    Bytes record = pair.records[0];
    record[bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
    EXPECT_FALSE(pair.reader().open(record)) << bit;
  }
  for (std::size_t size = 0; size < pair.records[0].size(); ++size)
    EXPECT_FALSE(pair.reader().open(std::span(pair.records[0]).first(size))) << size;
}

TEST(SealedStream, AnotherSecretOrDirectionOpensNothing) {
  Pair pair({{1}});
  EXPECT_FALSE(pair.reader(secret_of(2)).open(pair.records[0]));
  EXPECT_FALSE(pair.reader(secret_of(1), Direction::kBack).open(pair.records[0]));
  EXPECT_NE(new_stream_secret(), new_stream_secret());
  EXPECT_NE(tag_of(secret_of(1)), tag_of(secret_of(2)));
}

}  // namespace
}  // namespace hearth::net
