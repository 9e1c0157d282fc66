// The 28 bytes in front of every message: magic, version, type, flags, epoch, batch, step, length. Private to
// the codec.
//
//   0 u8[4] "HRTH"   4 u16 version   6 u8 type   7 u8 flags   8 u32 epoch   12 u64 batch   20 u16 step   22
//   u16 zero 24 u32 length of what follows
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace hearth::wire {

enum class MessageType : std::uint8_t {
  kHello = 1,
  kWelcome = 2,
  kPrepare = 3,
  kReady = 4,
  kActivate = 5,
  kRetire = 6,
  kCancel = 7,
  kHeartbeat = 8,
  kFailed = 9,
  kRefuse = 10,
  kGoodbye = 11,
  kMeasure = 12,
  kLinkReport = 13,
  kProbe = 14,
  kProbeReply = 15,
  kBatch = 16,
};

// The name used in errors, e.g. "Prepare".
[[nodiscard]] std::string_view name(MessageType type);

// Flags of a batch frame; every other bit, and every bit of a control message, is zero.
inline constexpr std::uint8_t kFlagOperationsOnly = 1;
inline constexpr std::uint8_t kFlagAncestorMask = 2;  // reserved: refused until a version defines the section

struct Header {
  std::uint16_t version = 0;
  MessageType type = MessageType::kHello;
  std::uint8_t flags = 0;
  std::uint32_t epoch = 0;
  std::uint64_t batch = 0;
  std::uint16_t step = 0;
};

// Appends the header with length 0; finish_message() fills the length in when the body is there.
void begin_message(const Header& header, std::vector<std::uint8_t>& out);
void finish_message(std::vector<std::uint8_t>& out);

struct Message {
  Header header;
  std::span<const std::uint8_t> body;
};
// Checks magic, version, that the type is known and that `length` is what follows. The version is judged
// before anything behind it, so that any other version, however different, gets kVersionMismatch. Only a
// Hello of another version passes: it keeps its layout for ever, so that the sender can be told.
[[nodiscard]] Result<Message> split_message(std::span<const std::uint8_t> bytes, std::size_t max_bytes);

// kVersionMismatch naming both versions.
[[nodiscard]] Error version_mismatch(std::uint16_t theirs);

}  // namespace hearth::wire
