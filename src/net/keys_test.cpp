#include "net/keys.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hearth::net {
namespace {

namespace fs = std::filesystem;

class KeyFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "hearth-keys-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(std::string_view content, mode_t mode = 0600) {
    const fs::path path = folder_ / "key";
    fs::remove(path);
    std::ofstream(path) << content;
    ::chmod(path.c_str(), mode);
    return path;
  }
  static std::string read(const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  fs::path folder_;
};

// The example pair of the zmq_curve(7) manual page, in Z85 and (below) in hexadecimal.
constexpr std::string_view kSecretZ85 = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs";
constexpr std::string_view kPublicZ85 = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";

KeyPair known_pair() {
  const auto secret = z85_decode(kSecretZ85);
  return *KeyPair::from_secret(*secret);
}

TEST(Keys, Z85OfTheSpecificationsExample) {
  // RFC 32: the 8 bytes 86 4F D2 6F B5 59 F7 5B are "HelloWorld"; four times 8 bytes make a key.
  KeyPair::Raw raw{};
  constexpr std::uint8_t kBytes[] = {0x86, 0x4F, 0xD2, 0x6F, 0xB5, 0x59, 0xF7, 0x5B};
  for (std::size_t i = 0; i < raw.size(); ++i) raw[i] = kBytes[i % 8];
  EXPECT_EQ(z85_encode(raw), "HelloWorldHelloWorldHelloWorldHelloWorld");
  EXPECT_EQ(*z85_decode("HelloWorldHelloWorldHelloWorldHelloWorld"), raw);
}

TEST(Keys, Z85RefusesOtherText) {
  EXPECT_FALSE(z85_decode(""));
  EXPECT_FALSE(z85_decode("HelloWorld"));
  EXPECT_FALSE(z85_decode("HelloWorldHelloWorldHelloWorldHelloWorl~"));
  EXPECT_FALSE(z85_decode("HelloWorldHelloWorldHelloWorldHelloWorldx"));
  EXPECT_FALSE(z85_decode(std::string_view("HelloWorldHelloWorldHelloWorldHelloWorl\0", 40)));
}

TEST(Keys, ThePublicKeyFollowsFromTheSecret) {
  EXPECT_EQ(known_pair().public_key().bytes, *z85_decode(kPublicZ85));
}

TEST(Keys, GeneratedPairsDifferAndAreConsistent) {
  const auto a = KeyPair::generate(), b = KeyPair::generate();
  ASSERT_TRUE(a && b);
  EXPECT_NE(a->public_key(), b->public_key());
  EXPECT_EQ(KeyPair::from_secret(a->secret())->public_key(), a->public_key());
}

TEST(Keys, MovingLeavesNoSecretBehind) {
  auto a = *KeyPair::generate();
  const KeyPair b = std::move(a);
  EXPECT_NE(KeyPair::Raw{}, *z85_decode(z85_encode(b.secret())));
  for (const std::uint8_t byte : a.secret())
    EXPECT_EQ(byte, 0);  // NOLINT(bugprone-use-after-move): that is the test
}

TEST_F(KeyFile, SaveAndLoadGiveTheSamePair) {
  const auto pair = *KeyPair::generate();
  const fs::path path = folder_ / "key";
  const auto saved = pair.save(path);
  ASSERT_TRUE(saved) << saved.error().message;
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  const auto loaded = KeyPair::load(path);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->public_key(), pair.public_key());
  EXPECT_TRUE(std::ranges::equal(loaded->secret(), pair.secret()));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "no temporary file is left";
}

TEST_F(KeyFile, TheFormatIsTheDocumentedOne) {
  const fs::path path = folder_ / "key";
  const KeyPair pair = known_pair();
  ASSERT_TRUE(pair.save(path));
  // The same pair, as the manual page prints it in hexadecimal.
  EXPECT_EQ(read(path),
            "hearth-key 1\n"
            "public bb88471d65e2659b30c55a5321cebb5aab2b70a398645c26dca2b2fcb43fc518\n"
            "secret 7bb864b489afa3671fbe69101f94b38972f24816dfb01b51656b3fec8dfd0888\n");
}

TEST_F(KeyFile, SaveNeverOverwrites) {
  const fs::path path = folder_ / "key";
  ASSERT_TRUE(KeyPair::generate()->save(path));
  const std::string before = read(path);
  const auto again = KeyPair::generate()->save(path);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(again.error().message.contains(path.string())) << again.error().message;
  EXPECT_EQ(read(path), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
}

TEST_F(KeyFile, SaveIntoAMissingFolderIsAnIoError) {
  EXPECT_EQ(KeyPair::generate()->save(folder_ / "missing" / "key").error().code, ErrorCode::kIo);
}

TEST_F(KeyFile, LoadOfAMissingFileSaysHowToMakeOne) {
  const auto loaded = KeyPair::load(folder_ / "key");
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(loaded.error().message.contains("hearth keygen")) << loaded.error().message;
}

TEST_F(KeyFile, LoadRefusesAFileThatOthersCanRead) {
  const fs::path path = folder_ / "key";
  ASSERT_TRUE(KeyPair::generate()->save(path));
  for (const mode_t mode : {0640, 0604, 0660, 0644, 0620}) {
    ASSERT_EQ(::chmod(path.c_str(), mode), 0);
    const auto loaded = KeyPair::load(path);
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code, ErrorCode::kInvalidFile);
    EXPECT_TRUE(loaded.error().message.contains("chmod 600")) << loaded.error().message;
  }
  ASSERT_EQ(::chmod(path.c_str(), 0400), 0);
  EXPECT_TRUE(KeyPair::load(path));
}

TEST_F(KeyFile, LoadRefusesFoldersAndPipes) {
  EXPECT_EQ(KeyPair::load(folder_).error().code, ErrorCode::kInvalidFile);
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(KeyPair::load(pipe).error().code, ErrorCode::kInvalidFile);
}

TEST_F(KeyFile, LoadRefusesEveryBrokenText) {
  const KeyPair pair = known_pair();
  const std::string pub = pair.public_key().hex();
  const std::string sec = DeviceKey{*z85_decode(kSecretZ85)}.hex();
  std::string other = pub;
  other[0] = other[0] == '0' ? '1' : '0';
  ASSERT_TRUE(KeyPair::load(write("hearth-key 1\npublic " + pub + "\nsecret " + sec + "\n")));
  ASSERT_TRUE(KeyPair::load(write("hearth-key 1\r\npublic " + pub + "\r\nsecret " + sec)))
      << "edited elsewhere";
  const std::string broken[] = {
      "",
      "\n",
      "hearth-key",
      "hearth-key 1\n",
      "hearth-key 1\npublic " + pub + "\n",
      "hearth-key 1\nsecret " + sec + "\npublic " + pub + "\n",
      "hearth-key 1\npublic " + pub + "\nsecret " + sec.substr(1) + "\n",
      "hearth-key 1\npublic " + pub + "\nsecret " + sec + "0\n",
      "hearth-key 1\npublic " + pub + "\nsecret g" + sec.substr(1) + "\n",
      "hearth-key 1\npublic" + pub + "\nsecret" + sec + "\n",
      "hearth-key 1\npublic " + pub + "\nsecret " + sec + "\nmore\n",
      "hearth-key 1\npublic " + other + "\nsecret " + sec + "\n",
      "-----BEGIN OPENSSH PRIVATE KEY-----\n",
      std::string(2000, 'a'),
      std::string(64, '\0'),
  };
  for (const std::string& content : broken) {
    const auto loaded = KeyPair::load(write(content));
    ASSERT_FALSE(loaded) << content;
    EXPECT_EQ(loaded.error().code, ErrorCode::kInvalidFile) << loaded.error().message;
    EXPECT_FALSE(loaded.error().message.contains(sec)) << "a message must not show a secret";
  }
  EXPECT_EQ(KeyPair::load(write("hearth-key 2\nwhatever\n")).error().code, ErrorCode::kVersionMismatch);
}

TEST(Keys, AnUnnamedKeyFileHoldsThePairUntilItIsClosed) {
  const auto pair = KeyPair::generate().value();
  std::string path;
  {
    auto made = UnnamedKeyFile::make(pair);
    ASSERT_TRUE(made) << made.error().message;
    const UnnamedKeyFile file = *std::move(made);
    path = file.path().string();
    for (int reader = 0; reader < 2; ++reader) {
      const auto loaded = KeyPair::load(path);
      ASSERT_TRUE(loaded) << loaded.error().message;
      EXPECT_EQ(loaded->public_key(), pair.public_key());
    }
  }
  EXPECT_FALSE(KeyPair::load(path));
}

}  // namespace
}  // namespace hearth::net
