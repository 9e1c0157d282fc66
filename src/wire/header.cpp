#include "wire/header.h"

#include <algorithm>
#include <array>

#include "wire/bytes.h"
#include "wire/limits.h"
#include "wire/messages.h"

namespace hearth::wire {
namespace {

constexpr std::array<std::uint8_t, 4> kMagic = {'H', 'R', 'T', 'H'};
constexpr std::size_t kLengthAt = 24;

// Everything behind magic and version.
Result<Message> split_known(std::span<const std::uint8_t> bytes, std::size_t max_bytes) {
  if (bytes.size() > max_bytes)
    return fail(ErrorCode::kProtocol, "a message of {} bytes is larger than the {} bytes allowed",
                bytes.size(), max_bytes);
  Message message;
  message.header = {.version = load_le<std::uint16_t>(bytes.data() + 4),
                    .type = static_cast<MessageType>(bytes[6]),
                    .flags = bytes[7],
                    .epoch = load_le<std::uint32_t>(bytes.data() + 8),
                    .batch = load_le<std::uint64_t>(bytes.data() + 12),
                    .step = load_le<std::uint16_t>(bytes.data() + 20)};
  message.body = bytes.subspan(kHeaderBytes);
  if (name(message.header.type).empty())
    return fail(ErrorCode::kProtocol, "unknown message type {}", bytes[6]);
  if (const auto zero = load_le<std::uint16_t>(bytes.data() + 22); zero != 0)
    return fail(ErrorCode::kProtocol, "{}: the reserved field of the header is {}, must be 0",
                name(message.header.type), zero);
  const auto length = load_le<std::uint32_t>(bytes.data() + kLengthAt);
  if (length != message.body.size())
    return fail(ErrorCode::kProtocol, "{}: the header announces {} bytes, {} follow",
                name(message.header.type), length, message.body.size());
  return message;
}

}  // namespace

std::string_view name(MessageType type) {
  switch (type) {
    case MessageType::kHello:
      return "Hello";
    case MessageType::kWelcome:
      return "Welcome";
    case MessageType::kPrepare:
      return "Prepare";
    case MessageType::kReady:
      return "Ready";
    case MessageType::kActivate:
      return "Activate";
    case MessageType::kRetire:
      return "Retire";
    case MessageType::kCancel:
      return "Cancel";
    case MessageType::kHeartbeat:
      return "Heartbeat";
    case MessageType::kFailed:
      return "Failed";
    case MessageType::kRefuse:
      return "Refuse";
    case MessageType::kGoodbye:
      return "Goodbye";
    case MessageType::kMeasure:
      return "Measure";
    case MessageType::kLinkReport:
      return "LinkReport";
    case MessageType::kProbe:
      return "Probe";
    case MessageType::kProbeReply:
      return "ProbeReply";
    case MessageType::kBatch:
      return "batch frame";
  }
  return {};
}

void begin_message(const Header& header, std::vector<std::uint8_t>& out) {
  Writer to(out);
  to.raw(kMagic);
  to.number<std::uint16_t>(header.version);
  to.number<std::uint8_t>(static_cast<std::uint8_t>(header.type));
  to.number<std::uint8_t>(header.flags);
  to.number<std::uint32_t>(header.epoch);
  to.number<std::uint64_t>(header.batch);
  to.number<std::uint16_t>(header.step);
  to.number<std::uint16_t>(0);
  to.number<std::uint32_t>(0);
}

void finish_message(std::vector<std::uint8_t>& out) {
  store_le(static_cast<std::uint32_t>(out.size() - kHeaderBytes), out.data() + kLengthAt);
}

Error version_mismatch(std::uint16_t theirs) {
  return {
      ErrorCode::kVersionMismatch,
      std::format("the peer speaks version {} of the protocol, this device version {}: update the older one",
                  theirs, kProtocolMajor)};
}

Result<Message> split_message(std::span<const std::uint8_t> bytes, std::size_t max_bytes) {
  if (bytes.size() < kHeaderBytes)
    return fail(ErrorCode::kProtocol, "a message of {} bytes is shorter than a header ({} bytes)",
                bytes.size(), kHeaderBytes);
  if (!std::ranges::equal(bytes.first(kMagic.size()), kMagic))
    return fail(ErrorCode::kProtocol,
                "a message does not begin with 'HRTH': the peer is not a hearth device");
  const auto version = load_le<std::uint16_t>(bytes.data() + 4);
  const auto type = static_cast<MessageType>(bytes[6]);
  const bool other_version = version != kProtocolMajor;
  if (other_version && type != MessageType::kHello) return std::unexpected(version_mismatch(version));
  auto message = split_known(bytes, max_bytes);
  if (!message && other_version) return std::unexpected(version_mismatch(version));
  return message;
}

}  // namespace hearth::wire
