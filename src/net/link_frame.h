// LinkFrame: the 8 bytes that a hub puts before every message on a link. docs/reference/link.md is the
// format page.
//
// Little-endian 64-bit number: the kind in the top byte, the sequence number below it. Sequence numbers start
// at 0 with the Open frame of a connection and grow by one with every frame, so a lost, repeated or forged
// frame shows.
//
// Thread contract: pure functions.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hearth::net {

inline constexpr std::size_t kFrameHeaderBytes = 8;
inline constexpr std::uint64_t kMaxSequence = (std::uint64_t{1} << 56) - 1;

enum class FrameKind : std::uint8_t {
  kMessage = 0,  // sender -> receiver: the bytes of the user
  kOpen = 1,     // sender -> receiver: the first frame of a connection; payload: LinkId
  kFlush = 2,    // sender -> receiver: answer with kFlushed once everything before was received
  kFlushed = 3,  // receiver -> sender: everything up to this sequence number was received
  kClosed = 4,   // receiver -> sender: this connection is refused; payload: code, reason
  kDataKey = 5,  // sender -> receiver, control lane: the secret of this link's data lane
};

struct FrameHeader {
  FrameKind kind = FrameKind::kMessage;
  std::uint64_t sequence = 0;
};

// Which link a connection belongs to: both lanes carry the same id. `instance` is random per hub, `counter`
// grows with every connect() of that hub.
struct LinkId {
  std::uint64_t instance = 0;
  std::uint64_t counter = 0;
  friend auto operator<=>(const LinkId&, const LinkId&) = default;
};
inline constexpr std::size_t kLinkIdBytes = 16;

// Why the receiving side closed a connection.
struct ClosedReason {
  ErrorCode code = ErrorCode::kProtocol;
  std::string text;
};
inline constexpr std::size_t kMaxReasonBytes = 400;

void write_header(FrameHeader header, std::span<std::uint8_t, kFrameHeaderBytes> out);
// nullopt when shorter than a header or of unknown kind.
[[nodiscard]] std::optional<FrameHeader> read_header(std::span<const std::uint8_t> frame);

void write_link_id(LinkId id, std::span<std::uint8_t, kLinkIdBytes> out);
// nullopt unless exactly 16 bytes.
[[nodiscard]] std::optional<LinkId> read_link_id(std::span<const std::uint8_t> payload);

[[nodiscard]] std::string write_reason(const ClosedReason& reason);
// Never fails: an unknown code becomes kProtocol, unprintable characters become '?', a long text is cut.
[[nodiscard]] ClosedReason read_reason(std::span<const std::uint8_t> payload);

}  // namespace hearth::net
