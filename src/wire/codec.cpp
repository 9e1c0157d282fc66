#include "wire/codec.h"

#include <algorithm>
#include <set>

#include "wire/bytes.h"
#include "wire/header.h"
#include "wire/limits.h"
#include "wire/text.h"

namespace hearth::wire {
namespace {

constexpr std::uint8_t kPrepareRepack = 1;
constexpr std::uint8_t kPrepareFlashAttention = 2;
constexpr std::uint8_t kPrepareHiddenAlways = 4;

// The numbers of error codes on the wire, fixed whatever order the enum has.
constexpr std::pair<ErrorCode, std::uint8_t> kErrorNumbers[] = {
    {ErrorCode::kInvalidArgument, 1},
    {ErrorCode::kInvalidFile, 2},
    {ErrorCode::kUnsupported, 3},
    {ErrorCode::kNotFound, 4},
    {ErrorCode::kIo, 5},
    {ErrorCode::kOutOfMemory, 6},
    {ErrorCode::kPeerGone, 7},
    {ErrorCode::kTimeout, 8},
    {ErrorCode::kUnauthorized, 9},
    {ErrorCode::kVersionMismatch, 10},
    {ErrorCode::kModelMismatch, 11},
    {ErrorCode::kProtocol, 12},
    {ErrorCode::kNumeric, 13},
    {ErrorCode::kCancelled, 14},
};

// --- Fields that several messages share
// -----------------------------------------------------------------------------

void put_text(Writer& to, std::string_view text) {
  to.count<std::uint16_t>(text.size());
  to.raw({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

std::string get_text(Reader& from, std::string_view field, std::size_t max_bytes) {
  const auto n =
      from.number<std::uint16_t>(std::format("{} length", field), 0, static_cast<std::uint16_t>(max_bytes));
  const auto raw = from.raw(field, n);
  std::string text(reinterpret_cast<const char*>(raw.data()), raw.size());
  if (!printable_utf8(text)) from.refuse(field, "is not printable UTF-8");
  return text;
}

std::string get_checked(Reader& from, std::string_view field, std::size_t max_bytes,
                        Result<> (*check)(std::string_view)) {
  std::string text = get_text(from, field, max_bytes);
  if (from.failed()) return text;
  if (auto ok = check(text); !ok) from.refuse(field, std::format("cannot be used: {}", ok.error().message));
  return text;
}

void put_address(Writer& to, const Address& address) {
  put_text(to, address.host);
  to.number<std::uint16_t>(address.control_port);
  to.number<std::uint16_t>(address.data_port);
}

Address get_address(Reader& from, std::string_view whose) {
  Address address;
  address.host = get_checked(from, std::format("{}host", whose), kMaxHostBytes, check_host);
  address.control_port = from.number<std::uint16_t>(std::format("{}control port", whose), 1);
  address.data_port = from.number<std::uint16_t>(std::format("{}data port", whose), 1);
  return address;
}

template <std::size_t N>
std::array<std::uint8_t, N> get_array(Reader& from, std::string_view field) {
  std::array<std::uint8_t, N> value{};
  std::ranges::copy(from.raw(field, N), value.begin());
  return value;
}

void put_members(Writer& to, const std::vector<Member>& members) {
  to.count<std::uint16_t>(members.size());
  for (const Member& member : members) {
    put_text(to, member.name);
    to.raw(member.key.bytes);
    put_address(to, member.address);
  }
}

void get_members(Reader& from, std::vector<Member>& members) {
  const auto n = from.number<std::uint16_t>("member count", 1, static_cast<std::uint16_t>(kMaxMembers));
  std::set<std::string> names;
  std::set<DeviceKey> keys;
  for (std::size_t i = 0; i < n && !from.failed(); ++i) {
    const std::string whose = std::format("member {} ", i);
    Member member;
    member.name = get_checked(from, whose + "name", kMaxNameBytes, check_device_name);
    member.key.bytes = get_array<32>(from, whose + "key");
    member.address = get_address(from, whose);
    if (from.failed()) return;
    if (member.key == DeviceKey{}) from.refuse(whose + "key", "is all zero");
    if (!names.insert(member.name).second)
      from.refuse(whose + "name", std::format("'{}' is there twice", member.name));
    if (!keys.insert(member.key).second)
      from.refuse(whose + "key",
                  std::format("{} is there twice: two devices with one identity", member.key.short_hex()));
    members.push_back(std::move(member));
  }
}

void put_error_code(Writer& to, ErrorCode code) {
  const auto* found = std::ranges::find(kErrorNumbers, code, &std::pair<ErrorCode, std::uint8_t>::first);
  HEARTH_CHECK(found != std::end(kErrorNumbers), "an error code without a number on the wire");
  to.number<std::uint8_t>(found->second);
}

ErrorCode get_error_code(Reader& from) {
  const auto number = from.number<std::uint8_t>("error code");
  const auto* found = std::ranges::find(kErrorNumbers, number, &std::pair<ErrorCode, std::uint8_t>::second);
  if (found != std::end(kErrorNumbers)) return found->first;
  from.refuse("error code", std::format("{} is unknown", number));
  return ErrorCode::kProtocol;
}

// --- One put and one get per message; what the header carries is not in the body
// -------------------------------------

void put(Writer& to, const Hello& m) {
  to.number<std::uint16_t>(m.minor);
  put_text(to, to_printable(m.version, kMaxVersionBytes));
  put_text(to, m.name);
  put_address(to, m.address);
  to.raw(m.model);
}

void get(Reader& from, Hello& m) {
  m.minor = from.number<std::uint16_t>("minor version");
  m.version = get_text(from, "program version", kMaxVersionBytes);
  m.name = get_checked(from, "name", kMaxNameBytes, check_device_name);
  m.address = get_address(from, "");
  m.model = get_array<32>(from, "model");
}

void put(Writer& to, const Welcome& m) {
  to.number<std::uint16_t>(m.minor);
  put_text(to, to_printable(m.version, kMaxVersionBytes));
  put_text(to, m.name);
  to.number<std::uint16_t>(m.data_port);
  to.raw(m.model);
  to.number<std::uint64_t>(m.memory_bytes);
  to.number<std::uint32_t>(m.n_threads);
  to.count<std::uint16_t>(m.passes.size());
  for (const PassRate& pass : m.passes) {
    to.number<std::uint32_t>(pass.n_tokens);
    to.number<std::uint64_t>(pass.bytes_per_s);
    to.number<std::uint32_t>(pass.spread_per_10k);
  }
  to.number<std::uint64_t>(m.disk_bytes_per_s);
  to.number<std::uint32_t>(m.disk_spread_per_10k);
}

void get_passes(Reader& from, std::vector<PassRate>& passes) {
  const auto n = from.number<std::uint16_t>("pass count", 0, static_cast<std::uint16_t>(kMaxPasses));
  std::uint32_t before = 0;
  for (std::size_t i = 0; i < n && !from.failed(); ++i) {
    const std::string whose = std::format("pass {} ", i);
    PassRate pass;
    pass.n_tokens = from.number<std::uint32_t>(whose + "tokens", 1, kMaxBatchTokens);
    if (pass.n_tokens <= before)
      from.refuse(whose + "tokens",
                  std::format("is {}, must be more than {} of the pass before", pass.n_tokens, before));
    pass.bytes_per_s = from.number<std::uint64_t>(whose + "rate", 1, kMaxBytesPerS);
    pass.spread_per_10k = from.number<std::uint32_t>(whose + "spread");
    before = pass.n_tokens;
    passes.push_back(pass);
  }
}

void get(Reader& from, Welcome& m) {
  m.minor = from.number<std::uint16_t>("minor version");
  m.version = get_text(from, "program version", kMaxVersionBytes);
  m.name = get_checked(from, "name", kMaxNameBytes, check_device_name);
  m.data_port = from.number<std::uint16_t>("data port", 1);
  m.model = get_array<32>(from, "model");
  m.memory_bytes = from.number<std::uint64_t>("memory", 0, kMaxMemoryBytes);
  m.n_threads = from.number<std::uint32_t>("thread count", 1, kMaxThreads);
  get_passes(from, m.passes);
  m.disk_bytes_per_s = from.number<std::uint64_t>("disk rate", 0, kMaxBytesPerS);
  m.disk_spread_per_10k = from.number<std::uint32_t>("disk spread");
  if (m.disk_bytes_per_s == 0 && m.disk_spread_per_10k != 0)
    from.refuse("disk spread", std::format("is {}, must be 0 without a rate", m.disk_spread_per_10k));
}

void put(Writer& to, const Prepare& m) {
  to.raw(m.model);
  to.number<std::uint32_t>(m.n_layer);
  to.number<std::uint32_t>(m.n_ctx);
  to.number<std::uint32_t>(m.n_ubatch);
  to.number<std::uint16_t>(m.n_seq);
  to.number<std::uint8_t>(static_cast<std::uint8_t>(m.kv_type.k));
  to.number<std::uint8_t>(static_cast<std::uint8_t>(m.kv_type.v));
  to.number<std::uint8_t>(static_cast<std::uint8_t>(m.hidden));
  to.number<std::uint8_t>(static_cast<std::uint8_t>((m.repack ? kPrepareRepack : 0) |
                                                    (m.flash_attention ? kPrepareFlashAttention : 0) |
                                                    (m.hidden_always ? kPrepareHiddenAlways : 0)));
  put_members(to, m.members);
  to.count<std::uint16_t>(m.steps.size());
  for (const StepSpec& step : m.steps) {
    to.number<std::uint16_t>(step.device);
    to.number<std::uint32_t>(step.layer_begin);
    to.number<std::uint32_t>(step.layer_end);
  }
}

void get_steps(Reader& from, std::size_t n_members, std::uint32_t n_layer, std::vector<StepSpec>& steps) {
  const auto n = from.number<std::uint16_t>("step count", 1, static_cast<std::uint16_t>(kMaxSteps));
  std::uint32_t next_layer = 0;
  for (std::size_t i = 0; i < n && !from.failed(); ++i) {
    StepSpec step;
    step.device = from.number<std::uint16_t>(std::format("step {} device", i));
    step.layer_begin = from.number<std::uint32_t>(std::format("step {} first layer", i));
    step.layer_end = from.number<std::uint32_t>(std::format("step {} end layer", i));
    if (from.failed()) return;
    const std::string field = std::format("step {}", i);
    if (step.device >= n_members)
      from.refuse(field, std::format("is for device {}, there are {} members", step.device, n_members));
    if (step.layer_begin != next_layer)
      from.refuse(field, std::format("begins at layer {}, must begin at {} where the one before ends",
                                     step.layer_begin, next_layer));
    if (step.layer_end <= step.layer_begin || step.layer_end > n_layer)
      from.refuse(field, std::format("is layers [{}, {}), the model has {}", step.layer_begin, step.layer_end,
                                     n_layer));
    next_layer = step.layer_end;
    steps.push_back(step);
  }
  if (!from.failed() && next_layer != n_layer)
    from.refuse("steps", std::format("end at layer {}, the model has {}", next_layer, n_layer));
}

void get(Reader& from, Prepare& m) {
  m.model = get_array<32>(from, "model");
  m.n_layer = from.number<std::uint32_t>("n_layer", 1, kMaxLayers);
  m.n_ctx = from.number<std::uint32_t>("n_ctx", 1, kMaxContext);
  m.n_ubatch = from.number<std::uint32_t>("n_ubatch", 1, kMaxBatchTokens);
  m.n_seq = from.number<std::uint16_t>("n_seq", 1, kMaxSequences);
  const auto kv_type = [&](std::string_view field) {
    return static_cast<KvType>(from.number<std::uint8_t>(field, 1, kKvTypes.size()));
  };
  m.kv_type.k = kv_type("type of keys");
  m.kv_type.v = kv_type("type of values");
  m.hidden = static_cast<HiddenEncoding>(from.number<std::uint8_t>("hidden encoding", 1, kHiddenEncodings));
  const auto flags = from.number<std::uint8_t>("flags");
  if ((flags & ~(kPrepareRepack | kPrepareFlashAttention | kPrepareHiddenAlways)) != 0)
    from.refuse("flags", std::format("0x{:02x} hold bits this version does not know", flags));
  m.repack = (flags & kPrepareRepack) != 0;
  m.flash_attention = (flags & kPrepareFlashAttention) != 0;
  m.hidden_always = (flags & kPrepareHiddenAlways) != 0;
  get_members(from, m.members);
  get_steps(from, m.members.size(), m.n_layer, m.steps);
}

void put(Writer& to, const Ready& m) {
  to.number<std::uint64_t>(m.weight_bytes);
  to.number<std::uint64_t>(m.kv_bytes);
  to.number<std::uint64_t>(m.compute_bytes);
  to.number<std::uint32_t>(m.max_batches);
  to.number<std::uint32_t>(m.max_group);
  to.number<std::uint32_t>(m.gpu_layers);
  to.number<std::uint64_t>(m.gpu_bytes);
}

void get(Reader& from, Ready& m) {
  m.weight_bytes = from.number<std::uint64_t>("weight bytes", 0, kMaxMemoryBytes);
  m.kv_bytes = from.number<std::uint64_t>("KV bytes", 0, kMaxMemoryBytes);
  m.compute_bytes = from.number<std::uint64_t>("compute bytes", 0, kMaxMemoryBytes);
  m.max_batches = from.number<std::uint32_t>("batches at once", 1, kMaxBatchesAtOnce);
  m.max_group = from.number<std::uint32_t>("batches of a group", 1, kMaxBatchesAtOnce);
  m.gpu_layers = from.number<std::uint32_t>("layers of a GPU", 0, kMaxLayers);
  m.gpu_bytes = from.number<std::uint64_t>("bytes of a GPU", 0, kMaxMemoryBytes);
}

void put(Writer& to, const Activate& m) {
  to.number<std::uint32_t>(m.max_in_flight);
}

void get(Reader& from, Activate& m) {
  m.max_in_flight = from.number<std::uint32_t>("batches in the ring", 1, kMaxBatchesAtOnce);
}

void put(Writer& to, const Retire& m) {
  put_text(to, to_printable(m.reason, kMaxTextBytes));
}
void get(Reader& from, Retire& m) {
  m.reason = get_text(from, "reason", kMaxTextBytes);
}

void put(Writer& to, const Cancel& m) {
  to.number<std::uint64_t>(m.first_batch);
  to.number<std::uint64_t>(m.last_batch);
}

void get(Reader& from, Cancel& m) {
  m.first_batch = from.number<std::uint64_t>("first batch", 1);
  m.last_batch = from.number<std::uint64_t>("last batch", m.first_batch);
}

void put(Writer& to, const Heartbeat& m) {
  to.number<std::uint64_t>(m.work_done);
}
void get(Reader& from, Heartbeat& m) {
  m.work_done = from.number<std::uint64_t>("work done");
}

void put(Writer& to, const Failed& m) {
  put_error_code(to, m.code);
  put_text(to, to_printable(m.message, kMaxTextBytes));
}

void get(Reader& from, Failed& m) {
  m.code = get_error_code(from);
  m.message = get_text(from, "message", kMaxTextBytes);
}

void put(Writer& to, const Refuse& m) {
  put_error_code(to, m.code);
  put_text(to, to_printable(m.message, kMaxTextBytes));
}

void get(Reader& from, Refuse& m) {
  m.code = get_error_code(from);
  m.message = get_text(from, "message", kMaxTextBytes);
}

void put(Writer& to, const Goodbye& m) {
  put_text(to, to_printable(m.reason, kMaxTextBytes));
}
void get(Reader& from, Goodbye& m) {
  m.reason = get_text(from, "reason", kMaxTextBytes);
}

void put(Writer& to, const Measure& m) {
  to.number<std::uint32_t>(m.id);
  to.number<std::uint32_t>(m.time_ms);
  put_members(to, m.members);
}

void get(Reader& from, Measure& m) {
  m.id = from.number<std::uint32_t>("id", 1);
  m.time_ms = from.number<std::uint32_t>("time", 0, kMaxMeasureMs);
  get_members(from, m.members);
}

void put(Writer& to, const LinkReport& m) {
  to.number<std::uint32_t>(m.id);
  to.count<std::uint16_t>(m.links.size());
  for (const MeasuredLink& link : m.links) {
    to.number<std::uint16_t>(link.member);
    to.number<std::uint64_t>(link.latency_ns);
    to.number<std::uint64_t>(link.bytes_per_s);
  }
}

void get(Reader& from, LinkReport& m) {
  m.id = from.number<std::uint32_t>("id", 1);
  const auto n = from.number<std::uint16_t>("link count", 0, static_cast<std::uint16_t>(kMaxMembers));
  std::uint32_t least_member = 0;
  for (std::size_t i = 0; i < n && !from.failed(); ++i) {
    const std::string whose = std::format("link {} ", i);
    MeasuredLink link;
    link.member =
        from.number<std::uint16_t>(whose + "member", 0, static_cast<std::uint16_t>(kMaxMembers - 1));
    link.latency_ns = from.number<std::uint64_t>(whose + "latency", 0, kMaxLatencyNs);
    link.bytes_per_s = from.number<std::uint64_t>(whose + "rate", 0, kMaxBytesPerS);
    if (link.member < least_member)
      from.refuse(whose + "member", std::format("is {}, must be more than {} of the link before", link.member,
                                                least_member - 1));
    least_member = link.member + 1u;
    m.links.push_back(link);
  }
}

void put(Writer& to, const Probe& m) {
  to.number<std::uint64_t>(m.id);
  to.number<std::uint32_t>(m.n_padding);
  std::fill_n(to.grow(m.n_padding), m.n_padding, std::uint8_t{0});
}

void get(Reader& from, Probe& m) {
  m.id = from.number<std::uint64_t>("id");
  m.n_padding = from.number<std::uint32_t>("padding length", 0, kMaxProbePadding);
  const auto padding = from.raw("padding", m.n_padding);
  if (std::ranges::any_of(padding, [](std::uint8_t byte) { return byte != 0; }))
    from.refuse("padding", "is not zero");
}

void put(Writer& to, const ProbeReply& m) {
  to.number<std::uint64_t>(m.id);
}
void get(Reader& from, ProbeReply& m) {
  m.id = from.number<std::uint64_t>("id");
}

// --- Types
// ----------------------------------------------------------------------------------------------------------

template <class T>
constexpr MessageType kTypeOf = MessageType::kBatch;
template <>
constexpr MessageType kTypeOf<Hello> = MessageType::kHello;
template <>
constexpr MessageType kTypeOf<Welcome> = MessageType::kWelcome;
template <>
constexpr MessageType kTypeOf<Prepare> = MessageType::kPrepare;
template <>
constexpr MessageType kTypeOf<Ready> = MessageType::kReady;
template <>
constexpr MessageType kTypeOf<Activate> = MessageType::kActivate;
template <>
constexpr MessageType kTypeOf<Retire> = MessageType::kRetire;
template <>
constexpr MessageType kTypeOf<Cancel> = MessageType::kCancel;
template <>
constexpr MessageType kTypeOf<Heartbeat> = MessageType::kHeartbeat;
template <>
constexpr MessageType kTypeOf<Failed> = MessageType::kFailed;
template <>
constexpr MessageType kTypeOf<Refuse> = MessageType::kRefuse;
template <>
constexpr MessageType kTypeOf<Goodbye> = MessageType::kGoodbye;
template <>
constexpr MessageType kTypeOf<Measure> = MessageType::kMeasure;
template <>
constexpr MessageType kTypeOf<LinkReport> = MessageType::kLinkReport;
template <>
constexpr MessageType kTypeOf<Probe> = MessageType::kProbe;
template <>
constexpr MessageType kTypeOf<ProbeReply> = MessageType::kProbeReply;

template <class T>
concept OfAnEpoch = requires(T message) { message.epoch; };
template <class T>
concept Versioned = requires(T message) { message.major; };
// A heartbeat before the first plan has no epoch yet.
template <class T>
constexpr bool kEpochMayBeZero = std::same_as<T, Heartbeat>;

template <class T>
Result<ControlMessage> read_message(const Message& message) {
  const Header& header = message.header;
  const std::string_view what = name(header.type);
  if (header.flags != 0)
    return fail(ErrorCode::kProtocol, "{}: flags are 0x{:02x}, must be 0", what, header.flags);
  if (header.batch != 0) return fail(ErrorCode::kProtocol, "{}: batch is {}, must be 0", what, header.batch);
  if (header.step != 0) return fail(ErrorCode::kProtocol, "{}: step is {}, must be 0", what, header.step);
  T value;
  if constexpr (OfAnEpoch<T>) {
    if (header.epoch == 0 && !kEpochMayBeZero<T>)
      return fail(ErrorCode::kProtocol, "{}: epoch is 0, epochs begin at 1", what);
    value.epoch = header.epoch;
  } else {
    if (header.epoch != 0)
      return fail(ErrorCode::kProtocol, "{}: epoch is {}, must be 0", what, header.epoch);
  }
  if constexpr (Versioned<T>) value.major = header.version;
  Reader body(message.body, what);
  get(body, value);
  // A later version may have appended fields to Hello.
  if (header.version == kProtocolMajor || body.failed()) HEARTH_TRY_VOID(body.finish());
  return ControlMessage{std::move(value)};
}

Result<ControlMessage> read_any(const Message& message) {
  switch (message.header.type) {
    case MessageType::kHello:
      return read_message<Hello>(message);
    case MessageType::kWelcome:
      return read_message<Welcome>(message);
    case MessageType::kPrepare:
      return read_message<Prepare>(message);
    case MessageType::kReady:
      return read_message<Ready>(message);
    case MessageType::kActivate:
      return read_message<Activate>(message);
    case MessageType::kRetire:
      return read_message<Retire>(message);
    case MessageType::kCancel:
      return read_message<Cancel>(message);
    case MessageType::kHeartbeat:
      return read_message<Heartbeat>(message);
    case MessageType::kFailed:
      return read_message<Failed>(message);
    case MessageType::kRefuse:
      return read_message<Refuse>(message);
    case MessageType::kGoodbye:
      return read_message<Goodbye>(message);
    case MessageType::kMeasure:
      return read_message<Measure>(message);
    case MessageType::kLinkReport:
      return read_message<LinkReport>(message);
    case MessageType::kProbe:
      return read_message<Probe>(message);
    case MessageType::kProbeReply:
      return read_message<ProbeReply>(message);
    case MessageType::kBatch:
      break;
  }
  return fail(ErrorCode::kProtocol, "a batch frame arrived on the control lane");
}

}  // namespace

std::string_view message_name(const ControlMessage& message) {
  return std::visit([]<class T>(const T&) { return name(kTypeOf<T>); }, message);
}

std::vector<std::uint8_t> encode(const ControlMessage& message) {
  std::vector<std::uint8_t> out;
  std::visit(
      [&]<class T>(const T& value) {
        Header header{.version = kProtocolMajor, .type = kTypeOf<T>};
        if constexpr (OfAnEpoch<T>) header.epoch = value.epoch;
        if constexpr (Versioned<T>) header.version = value.major;
        begin_message(header, out);
        Writer to(out);
        put(to, value);
        finish_message(out);
      },
      message);
  // What a peer would refuse must not leave: the receiver's checks are the definition of a legal message.
  // (Control messages are small and rare. A Welcome of another version is legal, only not to us.)
  const auto echo = decode_control(out);
  HEARTH_CHECK(echo || echo.error().code == ErrorCode::kVersionMismatch, echo ? "" : echo.error().message);
  return out;
}

Result<ControlMessage> decode_control(std::span<const std::uint8_t> bytes) {
  HEARTH_TRY(const Message message, split_message(bytes, kMaxControlBytes));
  auto value = read_any(message);
  if (!value && message.header.version != kProtocolMajor)
    return std::unexpected(version_mismatch(message.header.version));
  return value;
}

}  // namespace hearth::wire
