#include "net/link_frame.h"

#include <algorithm>

namespace hearth::net {
namespace {

void put_u64(std::uint64_t value, std::uint8_t* out) {
  for (int i = 0; i < 8; ++i) out[i] = static_cast<std::uint8_t>(value >> (8 * i));
}

std::uint64_t get_u64(const std::uint8_t* in) {
  std::uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value |= std::uint64_t{in[i]} << (8 * i);
  return value;
}

}  // namespace

void write_header(FrameHeader header, std::span<std::uint8_t, kFrameHeaderBytes> out) {
  put_u64((std::uint64_t{static_cast<std::uint8_t>(header.kind)} << 56) | (header.sequence & kMaxSequence),
          out.data());
}

std::optional<FrameHeader> read_header(std::span<const std::uint8_t> frame) {
  if (frame.size() < kFrameHeaderBytes) return std::nullopt;
  const std::uint64_t word = get_u64(frame.data());
  const auto kind = static_cast<std::uint8_t>(word >> 56);
  if (kind > static_cast<std::uint8_t>(FrameKind::kDataKey)) return std::nullopt;
  return FrameHeader{static_cast<FrameKind>(kind), word & kMaxSequence};
}

void write_link_id(LinkId id, std::span<std::uint8_t, kLinkIdBytes> out) {
  put_u64(id.instance, out.data());
  put_u64(id.counter, out.data() + 8);
}

std::optional<LinkId> read_link_id(std::span<const std::uint8_t> payload) {
  if (payload.size() != kLinkIdBytes) return std::nullopt;
  return LinkId{get_u64(payload.data()), get_u64(payload.data() + 8)};
}

std::string write_reason(const ClosedReason& reason) {
  std::string payload(1, static_cast<char>(reason.code));
  payload.append(reason.text, 0, kMaxReasonBytes);
  return payload;
}

ClosedReason read_reason(std::span<const std::uint8_t> payload) {
  ClosedReason reason;
  if (payload.empty()) return reason;
  if (payload[0] <= static_cast<std::uint8_t>(ErrorCode::kCancelled))
    reason.code = static_cast<ErrorCode>(payload[0]);
  for (const std::uint8_t byte : payload.subspan(1, std::min(payload.size() - 1, kMaxReasonBytes)))
    reason.text += byte >= 0x20 && byte < 0x7f ? static_cast<char>(byte) : '?';
  return reason;
}

}  // namespace hearth::net
