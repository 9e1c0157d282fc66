#include "net/link_frame.h"

#include <array>
#include <vector>

#include <gtest/gtest.h>

namespace hearth::net {
namespace {

TEST(LinkFrame, HeaderIsLittleEndianWithTheKindOnTop) {
  std::array<std::uint8_t, 8> bytes{};
  write_header({FrameKind::kFlush, 0x0001020304050607}, bytes);
  EXPECT_EQ(bytes, (std::array<std::uint8_t, 8>{7, 6, 5, 4, 3, 2, 1, 2}));
  const auto header = read_header(bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->kind, FrameKind::kFlush);
  EXPECT_EQ(header->sequence, 0x0001020304050607U);
}

TEST(LinkFrame, ShortFramesAndUnknownKindsAreNoFrames) {
  const std::vector<std::uint8_t> bytes(8);
  for (std::size_t size = 0; size < 8; ++size) EXPECT_FALSE(read_header(std::span(bytes).first(size)));
  for (int kind = 6; kind < 256; ++kind) {
    std::array<std::uint8_t, 8> frame{};
    frame[7] = static_cast<std::uint8_t>(kind);
    EXPECT_FALSE(read_header(frame)) << kind;
  }
}

TEST(LinkFrame, LinkIdHasExactly16Bytes) {
  std::array<std::uint8_t, 16> bytes{};
  write_link_id({0x1122334455667788, 5}, bytes);
  EXPECT_EQ(bytes, (std::array<std::uint8_t, 16>{0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 5}));
  EXPECT_EQ(read_link_id(bytes), (LinkId{0x1122334455667788, 5}));
  EXPECT_FALSE(read_link_id(std::span(bytes).first(15)));
  EXPECT_FALSE(read_link_id({}));
}

TEST(LinkFrame, ReasonsAreCutAndCleaned) {
  const auto bytes_of = [](const std::string& text) {
    return std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  };
  const std::string payload = write_reason({ErrorCode::kUnauthorized, "no"});
  EXPECT_EQ(read_reason(bytes_of(payload)).code, ErrorCode::kUnauthorized);
  EXPECT_EQ(read_reason(bytes_of(payload)).text, "no");
  EXPECT_EQ(read_reason({}).code, ErrorCode::kProtocol);
  EXPECT_EQ(read_reason(bytes_of("\xff\x1b[2J")).text, "?[2J") << "no control characters reach a terminal";
  EXPECT_EQ(read_reason(bytes_of("\xff")).code, ErrorCode::kProtocol);
  EXPECT_EQ(read_reason(bytes_of(std::string(10'000, 'a'))).text.size(), kMaxReasonBytes);
  EXPECT_EQ(write_reason({ErrorCode::kIo, std::string(10'000, 'a')}).size(), kMaxReasonBytes + 1);
}

}  // namespace
}  // namespace hearth::net
