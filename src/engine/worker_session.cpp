#include "engine/worker_session.h"

#include <algorithm>
#include <format>
#include <set>
#include <utility>

#include "engine/plan_rules.h"
#include "wire/codec.h"

namespace hearth::engine {

namespace {

constexpr std::size_t kMaxEpochs = 2;
constexpr Milliseconds kRetryAfter{200};
// How long the members of an epoch that is over may stay connected.
constexpr Milliseconds kAllowGrace{1000};

template <class... Args>
void log(Actions& out, LogLevel level, std::format_string<Args...> format, Args&&... args) {
  out.push_back(Log{level, std::format(format, std::forward<Args>(args)...)});
}

}  // namespace

WorkerSession::WorkerSession(const WorkerOptions& options)
    : options_(options),
      links_(options.connect_timeout, kRetryAfter),
      liveness_(options.liveness),
      stuck_(options.liveness.stuck_limit, options.liveness.most_per_tick) {}

Actions WorkerSession::start(TimePoint now) {
  Actions out;
  next_heartbeat_ = now;
  allow_now(out);
  return out;
}

Actions WorkerSession::on_control(const DeviceKey& from, const wire::ControlMessage& message, TimePoint now) {
  Actions out;
  liveness_.heard(from, now);
  if (const auto* hello = std::get_if<wire::Hello>(&message)) {
    on_hello(from, *hello, now, out);
  } else if (head_ == from) {
    const bool any_time =
        std::holds_alternative<wire::Goodbye>(message) || std::holds_alternative<wire::Heartbeat>(message);
    if (state_ == State::kJoined || any_time)
      std::visit([&](const auto& typed) { on_head(typed, now, out); }, message);
    else
      break_rules(from, message, out);
  } else if (is_member(from) || is_measured(from)) {
    on_member(from, message, now, out);
  } else {
    log(out, LogLevel::kDebug, "ignored a {} from {}, which is no peer of this device now",
        wire::message_name(message), from.short_hex());
  }
  return out;
}

// Members tell each other that they live and that they leave, and measure their links, nothing else.
void WorkerSession::on_member(const DeviceKey& from, const wire::ControlMessage& message, TimePoint now,
                              Actions& out) {
  if (const auto* probe = std::get_if<wire::Probe>(&message)) {
    answer(from, *probe, out);
  } else if (const auto* reply = std::get_if<wire::ProbeReply>(&message)) {
    on_reply(from, *reply, now, out);
  } else if (const auto* goodbye = std::get_if<wire::Goodbye>(&message)) {
    leave_out(from, now, out);
    fail_epochs_with(
        from, Error{ErrorCode::kPeerGone, std::format("{} left: {}", who(from), goodbye->reason)}, out);
  } else if (!std::holds_alternative<wire::Heartbeat>(message)) {
    break_rules(from, message, out);
  }
}

Actions WorkerSession::on_unreadable(const DeviceKey& from, const Error& error, TimePoint) {
  Actions out;
  const Error named{error.code, std::format("{}: {}", who(from), error.message)};
  if (head_ == from)
    leave_head(named, Farewell::kGoodbye, out);
  else if (is_member(from))
    fail_epochs_with(from, named, out);
  else
    log(out, LogLevel::kWarning, "ignored a message of {}", named.message);
  return out;
}

void WorkerSession::break_rules(const DeviceKey& from, const wire::ControlMessage& message, Actions& out) {
  const Error error{ErrorCode::kProtocol, std::format("{} sent a {}, which it may not do here", who(from),
                                                      wire::message_name(message))};
  if (head_ == from)
    leave_head(error, Farewell::kGoodbye, out);
  else if (is_member(from))
    fail_epochs_with(from, error, out);
  else
    log(out, LogLevel::kWarning, "ignored: {}", error.message);
}

void WorkerSession::on_hello(const DeviceKey& from, const wire::Hello& hello, TimePoint now, Actions& out) {
  if (std::ranges::find(options_.heads, from) == options_.heads.end()) {
    if (is_member(from) || is_measured(from)) return break_rules(from, hello, out);
    log(out, LogLevel::kWarning, "{} ({}) is not a head of this device: its Hello is ignored", hello.name,
        from.short_hex());
    return;
  }
  if (hello.address.host.empty() || hello.address.control_port == 0 || hello.address.data_port == 0) {
    log(out, LogLevel::kWarning, "{} ({}) says hello without an address where it can be reached: ignored",
        hello.name, from.short_hex());
    return;
  }
  if (head_ && *head_ != from)
    return refuse(
        from, hello.address,
        Error{ErrorCode::kUnauthorized, std::format("{} works for {} already", options_.name, head_name_)},
        now, out);
  if (head_)
    leave_head(Error{ErrorCode::kPeerGone, std::format("{} started anew", who(from))}, Farewell::kNone, out);
  const Party theirs{hello.name, hello.major, hello.minor, hello.version, hello.model};
  const Party ours{.name = options_.name, .version = options_.version, .model = options_.model};
  if (auto fits = check_party(theirs, ours); !fits)
    return refuse(from, hello.address, std::move(fits).error(), now, out);

  if (refusing_.erase(from) > 0) links_.drop(from, false, out);
  state_ = State::kGreeting;
  head_ = from;
  head_name_ = hello.name;
  head_address_ = hello.address;
  liveness_.watch(from, who(from), now);
  log(out, LogLevel::kInfo, "{} wants this device", who(from));
  links_.want(from, hello.address, now + options_.link_deadline, out);
}

// The refusal needs a link of its own, which lives as long as it takes to say it.
void WorkerSession::refuse(const DeviceKey& peer, const wire::Address& address, Error error, TimePoint now,
                           Actions& out) {
  log(out, LogLevel::kWarning, "refused {}: {}", peer.short_hex(), error.message);
  wire::Refuse message{.code = error.code, .message = std::move(error.message)};
  if (links_.wants(peer) && !refusing_.contains(peer)) {
    if (links_.is_up(peer)) out.push_back(Send{peer, std::move(message)});
    return;
  }
  refusing_[peer] = std::move(message);
  links_.want(peer, address, now + options_.connect_timeout, out);
}

Actions WorkerSession::on_peer_up(const DeviceKey& peer, TimePoint now) {
  Actions out;
  if (!links_.on_up(peer)) return out;
  if (const auto refusal = refusing_.find(peer); refusal != refusing_.end()) {
    out.push_back(Send{peer, std::move(refusal->second)});
    refusing_.erase(refusal);
    links_.drop(peer, true, out);
    return out;
  }
  if (head_ == peer) {
    links_.settle(peer);
    state_ = State::kJoined;
    liveness_.heard(peer, now);
    wire::Welcome welcome{.version = options_.version,
                          .name = options_.name,
                          .data_port = options_.data_port,
                          .model = options_.model,
                          .memory_bytes = options_.memory_bytes,
                          .n_threads = options_.n_threads};
    put_speed(options_.speed, welcome);
    out.push_back(Send{peer, std::move(welcome)});
    log(out, LogLevel::kInfo, "joined {}", who(peer));
    return out;
  }
  for (auto& [number, epoch] : epochs_) check_ready(epoch, out);
  check_report(now, out);
  return out;
}

Actions WorkerSession::on_peer_gone(const DeviceKey& peer, const Error& error, TimePoint now) {
  Actions out;
  const std::string name = who(peer);
  const LinkSet::Gone gone = links_.on_gone(peer, now);
  if (gone != LinkSet::Gone::kUnknown) leave_out(peer, now, out);
  switch (gone) {
    case LinkSet::Gone::kUnknown:
    case LinkSet::Gone::kRetry:
      return out;
    case LinkSet::Gone::kUnreachable:
      if (refusing_.erase(peer) > 0) return out;
      lose(peer, Error{error.code, std::format("{} cannot be reached: {}", name, error.message)}, out);
      return out;
    case LinkSet::Gone::kLost:
      lose(peer, Error{error.code, std::format("the link to {} is lost: {}", name, error.message)}, out);
      return out;
  }
  return out;
}

void WorkerSession::lose(const DeviceKey& peer, const Error& error, Actions& out) {
  if (head_ == peer)
    leave_head(error, Farewell::kNone, out);
  else
    fail_epochs_with(peer, error, out);
}

void WorkerSession::on_head(const wire::Prepare& plan, TimePoint now, Actions& out) {
  auto accepted = accept(plan);
  last_epoch_ = std::max(last_epoch_, plan.epoch);
  if (!accepted) {
    log(out, LogLevel::kWarning, "refused the plan of {}: {}", head_name_, accepted.error().message);
    out.push_back(
        Send{*head_, wire::Refuse{.code = accepted.error().code, .message = accepted.error().message}});
    return;
  }
  Epoch& epoch = epochs_[plan.epoch];
  epoch = {.plan = plan, .device = *accepted, .loaded = std::nullopt};
  end_measuring(out);
  allow_now(out);
  for (const std::uint16_t receiver : receivers_of(plan, epoch.device)) {
    if (receiver == 0) continue;  // the link to the head is there
    const wire::Member& member = plan.members[receiver];
    links_.want(member.key, member.address, now + options_.link_deadline, out);
  }
  log(out, LogLevel::kInfo, "preparing epoch {}: {}", plan.epoch, describe_device(plan, epoch.device));
  out.push_back(LoadEpoch{plan, epoch.device});
}

Result<std::uint16_t> WorkerSession::accept(const wire::Prepare& plan) const {
  HEARTH_TRY_VOID(validate_prepare(plan));
  if (plan.epoch <= last_epoch_)
    return fail(ErrorCode::kProtocol, "the plan has epoch {}, but epoch {} was here before", plan.epoch,
                last_epoch_);
  if (epochs_.size() >= kMaxEpochs)
    return fail(ErrorCode::kProtocol, "a plan of epoch {}, but {} epochs are held already", plan.epoch,
                epochs_.size());
  HEARTH_TRY_VOID(check_model(head_name_, plan.model, options_.name, options_.model));
  if (plan.members.front().key != *head_)
    return fail(ErrorCode::kProtocol, "the first member of the plan is {}, expected the head {}",
                plan.members.front().name, head_name_);
  const auto device = member_index(plan, options_.key);
  if (!device) return fail(ErrorCode::kProtocol, "{} is no member of the plan", options_.name);
  return *device;
}

void WorkerSession::on_head(const wire::Measure& measure, TimePoint now, Actions& out) {
  if (auto accepted = accept(measure); !accepted)
    return leave_head(
        Error{accepted.error().code, std::format("{}: {}", who(*head_), accepted.error().message)},
        Farewell::kGoodbye, out);
  const Milliseconds time = measure.time_ms == 0 ? kConnectLimit : Milliseconds(measure.time_ms);
  const auto before = std::exchange(measuring_, Measuring{.order = measure, .report_until = now + time});
  if (before) drop_unneeded(before->order.members, out);
  allow_now(out);
  std::vector<DeviceKey> linked{*head_};
  for (std::size_t i = 1; i < measure.members.size(); ++i) {
    const wire::Member& member = measure.members[i];
    if (member.key == options_.key) continue;
    links_.want(member.key, member.address, now + kConnectLimit, out);
    if (links_.is_up(member.key)) linked.push_back(member.key);
  }
  if (measure.time_ms > 0)
    measuring_->prober.emplace(std::move(linked), std::uint64_t{measure.id} << 32, now, out);
  check_report(now, out);
}

Result<> WorkerSession::accept(const wire::Measure& measure) const {
  if (!epochs_.empty())
    return fail(ErrorCode::kProtocol, "links are to be measured beside epoch {}", epochs_.begin()->first);
  if (measuring_ && measure.id <= measuring_->order.id)
    return fail(ErrorCode::kProtocol, "a Measure has the id {}, but {} was here before", measure.id,
                measuring_->order.id);
  if (measure.members.empty() || measure.members.front().key != *head_)
    return fail(ErrorCode::kProtocol, "the first member of a Measure is not the head");
  if (std::ranges::find(measure.members, options_.key, &wire::Member::key) == measure.members.end())
    return fail(ErrorCode::kProtocol, "{} is no member of a Measure", options_.name);
  return {};
}

void WorkerSession::answer(const DeviceKey& from, const wire::Probe& probe, Actions& out) {
  if (links_.is_up(from) && answers_.may_answer(from)) out.push_back(Send{from, wire::ProbeReply{probe.id}});
}

void WorkerSession::on_reply(const DeviceKey& from, const wire::ProbeReply& reply, TimePoint now,
                             Actions& out) {
  if (!measuring_ || !measuring_->prober) return;  // too late
  measuring_->prober->on_reply(from, reply, now, out);
  check_report(now, out);
}

// The link to it is down. Without the head there is nobody to report to.
void WorkerSession::leave_out(const DeviceKey& peer, TimePoint now, Actions& out) {
  if (head_ == peer || !measuring_ || !measuring_->prober) return;
  measuring_->prober->on_gone(peer, now, out);
  check_report(now, out);
}

// Reports what there is when it is complete, or its time over.
void WorkerSession::check_report(TimePoint now, Actions& out) {
  if (!measuring_ || measuring_->reported) return;
  const std::vector<wire::Member>& members = measuring_->order.members;
  const auto linked = [&](const wire::Member& member) {
    return member.key == options_.key || links_.is_up(member.key);
  };
  const bool complete =
      measuring_->prober ? measuring_->prober->done() : std::ranges::all_of(members, linked);
  if (!complete && now < measuring_->report_until) return;
  measuring_->reported = true;
  wire::LinkReport report{.id = measuring_->order.id};
  for (std::size_t i = 0; measuring_->prober && i < members.size(); ++i)
    if (const auto link = measuring_->prober->links().find(members[i].key);
        link != measuring_->prober->links().end())
      report.links.push_back(to_wire(static_cast<std::uint16_t>(i), link->second));
  measuring_->prober.reset();
  out.push_back(Send{*head_, std::move(report)});
}

void WorkerSession::end_measuring(Actions& out) {
  if (const auto before = std::exchange(measuring_, std::nullopt)) drop_unneeded(before->order.members, out);
}

// Closes the links that nothing else asks for.
void WorkerSession::drop_unneeded(const std::vector<wire::Member>& members, Actions& out) {
  for (const wire::Member& member : members)
    if (head_ != member.key && !has_receiver(member.key) && !is_measured(member.key) &&
        !refusing_.contains(member.key))
      links_.drop(member.key, false, out);
}

void WorkerSession::on_head(const wire::Activate& activate, TimePoint now, Actions& out) {
  const auto found = epochs_.find(activate.epoch);
  if (found == epochs_.end() && activate.epoch <= last_epoch_)
    return;  // it failed here meanwhile; the head will see
  if (found == epochs_.end() || !found->second.ready) return break_rules(*head_, activate, out);
  Epoch& epoch = found->second;
  if (epoch.active) return;
  for (const std::uint16_t receiver : receivers_of(epoch.plan, epoch.device)) {
    const DeviceKey key = epoch.plan.members[receiver].key;
    if (!links_.is_up(key))
      return fail_epoch(activate.epoch,
                        Error{ErrorCode::kPeerGone, std::format("the link to {} is lost", who(key))}, out);
    links_.settle(key);
  }
  epoch.active = true;
  for (const std::uint16_t sender : senders_to(epoch.plan, epoch.device)) {
    const DeviceKey& key = epoch.plan.members[sender].key;
    if (!liveness_.watches(key)) liveness_.watch(key, who(key), now);
  }
  out.push_back(ActivateEpoch{.epoch = activate.epoch, .max_in_flight = activate.max_in_flight});
  log(out, LogLevel::kInfo, "epoch {} is active", activate.epoch);
}

void WorkerSession::on_head(const wire::Retire& retire, TimePoint, Actions& out) {
  if (retire.epoch > last_epoch_) return break_rules(*head_, retire, out);
  if (!epochs_.contains(retire.epoch)) return;
  log(out, LogLevel::kInfo, "epoch {} is over: {}", retire.epoch, retire.reason);
  free_epoch(retire.epoch, retire.reason, out);
}

void WorkerSession::on_head(const wire::Failed& failed, TimePoint, Actions& out) {
  if (failed.epoch > last_epoch_) return break_rules(*head_, failed, out);
  if (!epochs_.contains(failed.epoch)) return;
  log(out, LogLevel::kError, "epoch {} is over: {}", failed.epoch, failed.message);
  free_epoch(failed.epoch, failed.message, out);
}

void WorkerSession::on_head(const wire::Cancel& cancel, TimePoint, Actions& out) {
  if (cancel.epoch > last_epoch_ || cancel.first_batch > cancel.last_batch)
    return break_rules(*head_, cancel, out);
  const auto found = epochs_.find(cancel.epoch);
  if (found == epochs_.end()) return;
  out.push_back(CancelBatches{cancel.epoch, cancel.first_batch, cancel.last_batch});
}

void WorkerSession::on_head(const wire::Refuse& refuse, TimePoint, Actions& out) {
  leave_head(Error{refuse.code, std::format("{} refused this device: {}", who(*head_), refuse.message)},
             Farewell::kNone, out);
}

void WorkerSession::on_head(const wire::Goodbye& goodbye, TimePoint, Actions& out) {
  leave_head(Error{ErrorCode::kCancelled, std::format("{} said goodbye: {}", who(*head_), goodbye.reason)},
             Farewell::kNone, out);
}

Actions WorkerSession::on_loaded(std::uint32_t number, const Result<LoadReport>& report, TimePoint now) {
  if (!report) return on_failed(number, report.error(), now);
  Actions out;
  const auto found = epochs_.find(number);
  if (found == epochs_.end() || found->second.loaded) return out;
  found->second.loaded = *report;
  check_ready(found->second, out);
  return out;
}

Actions WorkerSession::on_failed(std::uint32_t epoch, const Error& error, TimePoint) {
  Actions out;
  if (epochs_.contains(epoch)) fail_epoch(epoch, error, out);
  return out;
}

void WorkerSession::check_ready(Epoch& epoch, Actions& out) {
  if (epoch.ready || !epoch.loaded) return;
  for (const std::uint16_t receiver : receivers_of(epoch.plan, epoch.device))
    if (!links_.is_up(epoch.plan.members[receiver].key)) return;
  epoch.ready = true;
  out.push_back(Send{*head_, wire::Ready{.epoch = epoch.plan.epoch,
                                         .weight_bytes = epoch.loaded->weight_bytes,
                                         .kv_bytes = epoch.loaded->kv_bytes,
                                         .compute_bytes = epoch.loaded->compute_bytes,
                                         .max_batches = epoch.loaded->max_batches,
                                         .max_group = epoch.loaded->max_group,
                                         .gpu_layers = epoch.loaded->gpu_layers,
                                         .gpu_bytes = epoch.loaded->gpu_bytes}});
}

Actions WorkerSession::tick(const Progress& progress, TimePoint now) {
  Actions out;
  links_.tick(now, out);
  narrow(now, out);
  answers_.tick();
  if (measuring_ && measuring_->prober) measuring_->prober->tick(now, out);
  check_report(now, out);
  for (const Liveness::Silent& silent : liveness_.tick(now)) {
    if (head_ == silent.key)
      leave_head(silent.error, Farewell::kGoodbye, out);
    else
      fail_epochs_with(silent.key, silent.error, out);
  }
  const bool pending = !epochs_.empty() && progress.steps_accepted > progress.steps_done;
  if (stuck_.tick(pending, progress.work_done, now)) {
    const Error error = stuck_error(options_.name, progress, options_.liveness.stuck_limit);
    for (const std::uint32_t number : epochs()) fail_epoch(number, error, out);
  }
  if (state_ == State::kJoined && now >= next_heartbeat_) {
    next_heartbeat_ = now + options_.liveness.heartbeat;
    const wire::Heartbeat heartbeat{.epoch = epochs_.empty() ? 0 : epochs_.rbegin()->first,
                                    .work_done = progress.work_done};
    for (const DeviceKey& peer : links_.up()) out.push_back(Send{peer, heartbeat});
  }
  return out;
}

Actions WorkerSession::shutdown(const std::string& reason, TimePoint) {
  Actions out;
  for (const std::uint32_t number : epochs()) {
    out.push_back(FreeEpoch{number, reason});
    epochs_.erase(number);
  }
  for (const DeviceKey& peer : links_.up()) out.push_back(Send{peer, wire::Goodbye{reason}});
  links_.drop_all(true, out);
  measuring_.reset();
  refusing_.clear();
  head_.reset();
  state_ = State::kIdle;
  return out;
}

void WorkerSession::fail_epochs_with(const DeviceKey& member, const Error& error, Actions& out) {
  for (const std::uint32_t number : epochs())
    if (member_index(epochs_.at(number).plan, member)) fail_epoch(number, error, out);
}

void WorkerSession::fail_epoch(std::uint32_t number, const Error& error, Actions& out) {
  log(out, LogLevel::kError, "epoch {} failed: {}", number, error.message);
  out.push_back(Send{*head_, wire::Failed{.epoch = number, .code = error.code, .message = error.message}});
  free_epoch(number, error.message, out);
}

void WorkerSession::free_epoch(std::uint32_t number, const std::string& reason, Actions& out) {
  const auto node = epochs_.extract(number);
  out.push_back(FreeEpoch{number, reason});
  for (const wire::Member& member : node.mapped().plan.members) {
    if (head_ == member.key) continue;
    if (!has_sender(member.key)) liveness_.forget(member.key);
    if (!has_receiver(member.key) && !refusing_.contains(member.key)) links_.drop(member.key, false, out);
  }
  // Members learn of the end in any order: one that is shut out before it knows would take it for a failure.
  for (const wire::Member& member : node.mapped().plan.members) lingering_.insert(member.key);
  narrow_at_.reset();
  allow_now(out);
}

void WorkerSession::leave_head(const Error& error, Farewell farewell, Actions& out) {
  const DeviceKey head = *head_;
  // A head that leaves on purpose, or one that had asked for nothing, is no trouble.
  const bool expected =
      error.code == ErrorCode::kCancelled || (error.code == ErrorCode::kPeerGone && epochs_.empty());
  log(out, expected ? LogLevel::kInfo : LogLevel::kError, "{}", error.message);
  for (const std::uint32_t number : epochs()) free_epoch(number, error.message, out);
  if (measuring_) {
    for (const wire::Member& member : measuring_->order.members) lingering_.insert(member.key);
    narrow_at_.reset();
    end_measuring(out);
    allow_now(out);
  }
  if (farewell == Farewell::kGoodbye && links_.is_up(head))
    out.push_back(Send{head, wire::Goodbye{error.message}});
  links_.drop(head, farewell == Farewell::kGoodbye, out);
  liveness_.forget(head);
  head_.reset();
  last_epoch_ = 0;
  state_ = State::kIdle;
  log(out, LogLevel::kInfo, "waiting for a head");
}

// Not while a head is about to send its first plan: a member that has it already may be connected.
void WorkerSession::narrow(TimePoint now, Actions& out) {
  if (lingering_.empty()) return;
  if (!narrow_at_) narrow_at_ = now + kAllowGrace;
  if (now < *narrow_at_ || (state_ != State::kIdle && epochs_.empty() && !measuring_)) return;
  lingering_.clear();
  allow_now(out);
}

void WorkerSession::allow_now(Actions& out) const {
  std::set<DeviceKey> keys = lingering_;
  for (const auto& [number, epoch] : epochs_)
    for (const wire::Member& member : epoch.plan.members) keys.insert(member.key);
  if (measuring_)
    for (const wire::Member& member : measuring_->order.members) keys.insert(member.key);
  // Also beside a plan: another head must be able to ask, or it could not be told who is served.
  keys.insert(options_.heads.begin(), options_.heads.end());
  keys.erase(options_.key);
  out.push_back(Allow{{keys.begin(), keys.end()}});
}

bool WorkerSession::is_member(const DeviceKey& key) const {
  return std::ranges::any_of(
      epochs_, [&](const auto& entry) { return member_index(entry.second.plan, key).has_value(); });
}

bool WorkerSession::is_measured(const DeviceKey& key) const {
  return measuring_ && std::ranges::find(measuring_->order.members, key, &wire::Member::key) !=
                           measuring_->order.members.end();
}

bool WorkerSession::has_receiver(const DeviceKey& key) const {
  return std::ranges::any_of(epochs_, [&](const auto& entry) {
    const auto index = member_index(entry.second.plan, key);
    const auto to = receivers_of(entry.second.plan, entry.second.device);
    return index && std::ranges::find(to, *index) != to.end();
  });
}

bool WorkerSession::has_sender(const DeviceKey& key) const {
  return std::ranges::any_of(epochs_, [&](const auto& entry) {
    const auto index = member_index(entry.second.plan, key);
    const auto from = senders_to(entry.second.plan, entry.second.device);
    return index && entry.second.active && std::ranges::find(from, *index) != from.end();
  });
}

const wire::Prepare* WorkerSession::loaded_plan(std::uint32_t epoch) const {
  const auto found = epochs_.find(epoch);
  return found == epochs_.end() || !found->second.loaded ? nullptr : &found->second.plan;
}

std::vector<std::uint32_t> WorkerSession::epochs() const {
  std::vector<std::uint32_t> numbers;
  for (const auto& [number, epoch] : epochs_) numbers.push_back(number);
  return numbers;
}

std::string WorkerSession::who(const DeviceKey& key) const {
  if (head_ == key) return describe_peer(head_name_, head_address_);
  for (const auto& [number, epoch] : epochs_)
    if (const auto index = member_index(epoch.plan, key))
      return describe_peer(epoch.plan.members[*index].name, epoch.plan.members[*index].address);
  if (is_measured(key)) {
    const auto member = std::ranges::find(measuring_->order.members, key, &wire::Member::key);
    return describe_peer(member->name, member->address);
  }
  return key.short_hex();
}

}  // namespace hearth::engine
