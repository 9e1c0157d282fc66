// The bounds of everything that crosses a link. Receivers check them before they allocate; encoders keep to
// them.
//
// Each has its reason beside it. docs/reference/wire.md repeats them for other implementations.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth::wire {

// The fixed header in front of every message.
inline constexpr std::size_t kHeaderBytes = 28;

// A whole control message. The largest legal one, a Prepare with kMaxMembers and kMaxSteps, takes 33,170
// bytes.
inline constexpr std::size_t kMaxControlBytes = 64 * 1024;

// Zeros in a Probe: what is left of a control message.
inline constexpr std::uint32_t kMaxProbePadding = kMaxControlBytes - kHeaderBytes - 12;
// Ten seconds: no Measure may take longer, and no link that is slower is one.
inline constexpr std::uint32_t kMaxMeasureMs = 10'000;
inline constexpr std::uint64_t kMaxLatencyNs = std::uint64_t{kMaxMeasureMs} * 1'000'000;

// Bytes of UTF-8. A name is shown in columns and log lines.
inline constexpr std::size_t kMaxNameBytes = 64;
inline constexpr std::size_t kMaxVersionBytes = 64;
// 253 is the longest DNS name; an IPv6 address with a zone is shorter.
inline constexpr std::size_t kMaxHostBytes = 253;
// An error message of several lines; longer ones are cut by the sender.
inline constexpr std::size_t kMaxTextBytes = 2048;

// Far beyond a household; every member is an open connection pair and a row in each allow-list.
inline constexpr std::uint32_t kMaxMembers = 64;
// The deepest published models have 126 layers.
inline constexpr std::uint32_t kMaxLayers = 1024;
// A step holds at least one layer.
inline constexpr std::uint32_t kMaxSteps = kMaxLayers;
// KV cells: 16 M, beyond any model's trained context. Positions and shifts stay far from the end of int32.
inline constexpr std::uint32_t kMaxContext = std::uint32_t{1} << 24;
// Threads one device offers; the largest machines have fewer hardware threads.
inline constexpr std::uint32_t kMaxThreads = 4096;
// An amount of memory. Sums over kMaxMembers devices stay within 64 bits.
inline constexpr std::uint64_t kMaxMemoryBytes = std::uint64_t{1} << 56;

// Bytes a second of a processor, a disk or a link: no faster than an amount of memory in a second.
inline constexpr std::uint64_t kMaxBytesPerS = kMaxMemoryBytes;
// Measured passes of a processor: one for each doubling of the tokens in a batch, and one between.
inline constexpr std::size_t kMaxPasses = 16;

// Tokens in a batch: prompts are cut into smaller chunks long before (512 by default).
inline constexpr std::uint32_t kMaxBatchTokens = 8192;
// Batches on their way through the ring at once, far more than pay.
inline constexpr std::uint32_t kMaxBatchesAtOnce = 1024;
// KV operations in a batch: a few per sequence at most.
inline constexpr std::uint32_t kMaxBatchOperations = 4096;
// Values in a hidden row; the widest published models have 16,384.
inline constexpr std::uint32_t kMaxEmbd = 65536;
// A whole batch frame: 8 MiB hold 512 rows of 4,096 f32, the default chunk of a common model; this leaves
// room for the widest models and large chunks, and bounds what a peer can make a receiver hold.
inline constexpr std::size_t kMaxFrameBytes = std::size_t{256} * 1024 * 1024;
// Hidden state of one frame: header, operations and tokens take less than 1 MiB. Whoever makes a plan keeps
// n_ubatch rows of the model within it.
inline constexpr std::size_t kMaxHiddenBytes = kMaxFrameBytes - 1024 * 1024;

}  // namespace hearth::wire
