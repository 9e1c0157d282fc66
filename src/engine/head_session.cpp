#include "engine/head_session.h"

#include <algorithm>
#include <format>
#include <set>
#include <utility>

#include "wire/codec.h"
#include "wire/limits.h"

namespace hearth::engine {

namespace {

constexpr std::size_t kMaxEpochs = 2;
constexpr Milliseconds kRetryAfter{200};

template <class... Args>
void log(Actions& out, LogLevel level, std::format_string<Args...> format, Args&&... args) {
  out.push_back(Log{level, std::format(format, std::forward<Args>(args)...)});
}

// A worker notices its own stuck computation first and says so; the head only speaks up when that does not
// happen.
Milliseconds ring_stuck_limit(const LivenessOptions& options) {
  return options.stuck_limit + options.stuck_limit / 4;
}

std::string join(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : "; ") + part;
  return text;
}

}  // namespace

HeadSession::HeadSession(const HeadOptions& options)
    : options_(options),
      links_(options.connect_timeout, kRetryAfter),
      liveness_(options.liveness),
      own_stuck_(options.liveness.stuck_limit, options.liveness.most_per_tick),
      ring_stuck_(ring_stuck_limit(options.liveness), options.liveness.most_per_tick) {}

Result<Actions> HeadSession::start(TimePoint now) {
  std::set<DeviceKey> keys;
  for (const WorkerContact& contact : options_.workers) {
    if (contact.key == options_.key)
      return fail(ErrorCode::kInvalidArgument,
                  "the worker at {} has the key of this device: give it one of its own",
                  describe_peer(contact.key.short_hex(), contact.address));
    if (!keys.insert(contact.key).second)
      return fail(ErrorCode::kInvalidArgument,
                  "two workers have the key {}, the second is {}: two devices with one identity",
                  contact.key.short_hex(), describe_peer(contact.key.short_hex(), contact.address));
  }
  Actions out;
  contact_until_ = now + options_.contact_timeout;
  next_heartbeat_ = now;
  out.push_back(Allow{{keys.begin(), keys.end()}});
  for (const WorkerContact& contact : options_.workers) {
    workers_.push_back({.contact = contact, .info = {.key = contact.key, .address = contact.address}});
    wire::Address control = contact.address;
    control.data_port = 0;
    links_.want(contact.key, control, contact_until_, out);
  }
  check_met(out);
  return out;
}

void HeadSession::check_met(Actions& out) {
  if (state_ != State::kContacting) return;
  for (const Worker& worker : workers_)
    if (worker.meeting != Meeting::kMet) return;
  state_ = State::kMet;
  out.push_back(AllWelcome{});
}

Actions HeadSession::on_peer_up(const DeviceKey& peer, TimePoint) {
  Actions out;
  Worker* worker = find(peer);
  if (worker == nullptr || !links_.on_up(peer) || !is_running()) return out;
  if (worker->meeting == Meeting::kConnecting) {
    worker->meeting = Meeting::kGreeted;
    out.push_back(Send{peer, wire::Hello{.version = options_.version,
                                         .name = options_.name,
                                         .address = worker->contact.head_address,
                                         .model = options_.model}});
  } else if (worker->meeting == Meeting::kLinking) {
    worker->meeting = Meeting::kMet;
    links_.settle(peer);
    log(out, LogLevel::kInfo, "{} joined", who(*worker));
    check_met(out);
  }
  return out;
}

Actions HeadSession::on_peer_gone(const DeviceKey& peer, const Error& error, TimePoint now) {
  Actions out;
  Worker* worker = find(peer);
  if (worker == nullptr) return out;
  const auto gone = links_.on_gone(peer, now);
  if (gone == LinkSet::Gone::kUnknown || !is_running()) return out;
  worker->last_error = error.message;
  if (worker->meeting == Meeting::kGreeted) worker->meeting = Meeting::kConnecting;
  if (gone == LinkSet::Gone::kLost)
    fail_session(Error{error.code, std::format("the link to {} is lost: {}", who(*worker), error.message)},
                 out);
  // An unreachable one is reported with all others at the end of the contact time.
  return out;
}

Actions HeadSession::on_control(const DeviceKey& from, const wire::ControlMessage& message, TimePoint now) {
  Actions out;
  Worker* worker = find(from);
  if (!is_running() || worker == nullptr) return out;
  liveness_.heard(from, now);
  // Before its Welcome a worker may only answer the Hello.
  const bool answer = std::holds_alternative<wire::Welcome>(message) ||
                      std::holds_alternative<wire::Refuse>(message) ||
                      std::holds_alternative<wire::Goodbye>(message);
  if (worker->meeting == Meeting::kConnecting || (worker->meeting == Meeting::kGreeted && !answer)) {
    log(out, LogLevel::kDebug, "ignored a {} from {}, which was not asked", wire::message_name(message),
        who(*worker));
    return out;
  }
  std::visit([&](const auto& typed) { on(*worker, typed, now, out); }, message);
  return out;
}

Actions HeadSession::on_unreadable(const DeviceKey& from, const Error& error, TimePoint) {
  Actions out;
  Worker* worker = find(from);
  if (is_running() && worker != nullptr)
    fail_session(Error{error.code, std::format("{}: {}", who(*worker), error.message)}, out);
  return out;
}

void HeadSession::break_rules(const Worker& from, const wire::ControlMessage& message, Actions& out) {
  fail_session(Error{ErrorCode::kProtocol, std::format("{} sent a {}, which it may not do here", who(from),
                                                       wire::message_name(message))},
               out);
}

void HeadSession::on(Worker& from, const wire::Welcome& welcome, TimePoint now, Actions& out) {
  if (from.meeting != Meeting::kGreeted || welcome.data_port == 0) return break_rules(from, welcome, out);
  from.info.name = welcome.name;
  const Party theirs{welcome.name, welcome.major, welcome.minor, welcome.version, welcome.model};
  const Party ours{.name = options_.name, .version = options_.version, .model = options_.model};
  if (auto fits = check_party(theirs, ours); !fits) return fail_session(fits.error(), out);
  if (auto unique = check_name(from); !unique) return fail_session(unique.error(), out);
  from.info.version = welcome.version;
  from.info.address.data_port = welcome.data_port;
  from.info.memory_bytes = welcome.memory_bytes;
  from.info.n_threads = welcome.n_threads;
  from.info.speed = speed_of(welcome);
  from.meeting = Meeting::kLinking;
  liveness_.watch(from.info.key, who(from), now);
  links_.want(from.info.key, from.info.address, contact_until_, out);
}

Result<> HeadSession::check_name(const Worker& worker) const {
  const std::string& name = worker.info.name;
  if (name == options_.name)
    return fail(ErrorCode::kInvalidArgument,
                "the worker at {} has the name of this device, \"{}\": give it another (--name)",
                describe_peer(worker.info.key.short_hex(), worker.info.address), name);
  for (const Worker& other : workers_)
    if (&other != &worker && other.info.name == name)
      return fail(ErrorCode::kInvalidArgument,
                  "two devices have the identity {} and {}: give one another name (--name)",
                  describe_peer(name, other.info.address), describe_peer(name, worker.info.address));
  return {};
}

Result<Actions> HeadSession::measure_links(TimePoint now) {
  if (state_ != State::kMet)
    return fail(ErrorCode::kInvalidArgument, "measuring links needs all devices, but {}",
                state_ == State::kContacting ? "not all of them answered yet" : "the session is over");
  if (!epochs_.empty())
    return fail(ErrorCode::kInvalidArgument, "links are measured before a plan, but epoch {} is held",
                epochs_.begin()->first);
  Actions out;
  std::vector<wire::Member> members{{.name = options_.name, .key = options_.key}};
  std::vector<wire::Address> head_addresses;
  for (const Worker& worker : workers_) {
    members.push_back({worker.info.name, worker.info.key, worker.info.address});
    head_addresses.push_back(worker.contact.head_address);
  }
  survey_.emplace(std::move(members), std::move(head_addresses), survey_ ? survey_->next_id() : 1, now, out);
  links_wanted_ = true;
  check_links(out);
  return out;
}

void HeadSession::check_links(Actions& out) {
  if (!links_wanted_ || !survey_->done()) return;
  links_wanted_ = false;
  survey_->describe(out);
  out.push_back(LinksMeasured{});
}

void HeadSession::on(Worker& from, const wire::LinkReport& report, TimePoint now, Actions& out) {
  if (!survey_) return break_rules(from, report, out);
  if (auto fits = survey_->on_report(from.info.key, report, now, out); !fits)
    return fail_session(Error{fits.error().code, std::format("{}: {}", who(from), fits.error().message)},
                        out);
  check_links(out);
}

void HeadSession::on(Worker& from, const wire::Probe& probe, TimePoint, Actions& out) {
  if (from.meeting == Meeting::kMet && answers_.may_answer(from.info.key))
    out.push_back(Send{from.info.key, wire::ProbeReply{probe.id}});
}

void HeadSession::on(Worker& from, const wire::ProbeReply& reply, TimePoint now, Actions& out) {
  if (!survey_) return;
  survey_->on_reply(from.info.key, reply, now, out);
  check_links(out);
}

LinkMatrix HeadSession::links() const {
  return survey_ && !links_wanted_ ? survey_->links() : LinkMatrix{};
}

Result<Actions> HeadSession::prepare(const plan::Plan& plan, const EpochOptions& options, TimePoint) {
  if (state_ != State::kMet)
    return fail(ErrorCode::kInvalidArgument, "a plan needs all devices, but {}",
                state_ == State::kContacting ? "not all of them answered yet" : "the session is over");
  if (links_wanted_)
    return fail(ErrorCode::kInvalidArgument, "the links are being measured; make the plan after that");
  if (epochs_.size() >= kMaxEpochs)
    return fail(ErrorCode::kInvalidArgument, "{} epochs are held already, retire one first", epochs_.size());
  if (plan.devices.empty() || plan.devices.front() != options_.name)
    return fail(ErrorCode::kInvalidArgument, "the first device of a plan must be the head {}", options_.name);
  const std::uint32_t epoch_number = last_epoch_ == 0 ? options_.first_epoch : last_epoch_ + 1;
  std::vector<wire::Member> members{{.name = options_.name, .key = options_.key}};
  for (std::size_t i = 1; i < plan.devices.size(); ++i) {
    const auto worker =
        std::ranges::find(workers_, plan.devices[i], [](const Worker& w) { return w.info.name; });
    if (worker == workers_.end())
      return fail(ErrorCode::kInvalidArgument, "the plan names the device {}, which did not join",
                  plan.devices[i]);
    members.push_back({worker->info.name, worker->info.key, worker->info.address});
  }
  HEARTH_TRY(wire::Prepare message,
             make_prepare(epoch_number, options_.model, plan, options, std::move(members)));

  Actions out;
  last_epoch_ = message.epoch;
  Epoch& epoch = epochs_[last_epoch_];
  epoch.reports.resize(message.members.size());
  for (std::size_t i = 1; i < message.members.size(); ++i) {
    const DeviceKey key = message.members[i].key;
    message.members.front().address = find(key)->contact.head_address;
    out.push_back(Send{key, message});
  }
  epoch.plan = message;
  out.push_back(LoadEpoch{std::move(message), 0});
  return out;
}

void HeadSession::on(Worker& from, const wire::Ready& ready, TimePoint, Actions& out) {
  const auto found = epochs_.find(ready.epoch);
  if (found == epochs_.end() && ready.epoch <= last_epoch_) return;  // it failed meanwhile
  const auto index = found == epochs_.end() ? std::nullopt : member_index(found->second.plan, from.info.key);
  if (!index || found->second.reports[*index]) return break_rules(from, ready, out);
  found->second.reports[*index] = LoadReport{.weight_bytes = ready.weight_bytes,
                                             .kv_bytes = ready.kv_bytes,
                                             .compute_bytes = ready.compute_bytes,
                                             .max_batches = ready.max_batches,
                                             .max_group = ready.max_group,
                                             .gpu_layers = ready.gpu_layers,
                                             .gpu_bytes = ready.gpu_bytes};
  check_active(found->second, out);
}

Actions HeadSession::on_loaded(std::uint32_t number, const Result<LoadReport>& report, TimePoint now) {
  if (!report) return on_failed(number, report.error(), now);
  Actions out;
  const auto found = epochs_.find(number);
  if (found == epochs_.end() || found->second.reports.front()) return out;
  found->second.reports.front() = *report;
  check_active(found->second, out);
  return out;
}

// As many as keep every device busy, or fill the largest group twice, so that one is computed while another
// is on its way; never more than every device has memory for.
std::uint32_t HeadSession::batches_in_flight(const Epoch& epoch) {
  std::uint32_t wanted = batches_to_keep_busy(epoch.plan.steps.size());
  std::uint32_t least = wire::kMaxBatchesAtOnce;
  for (const std::optional<LoadReport>& report : epoch.reports) {
    wanted = std::max(wanted, 2 * report->max_group);
    least = std::min(least, report->max_batches);
  }
  return std::min(wanted, least);
}

void HeadSession::check_active(Epoch& epoch, Actions& out) {
  const auto is_there = [](const std::optional<LoadReport>& report) { return report.has_value(); };
  if (epoch.active || !std::ranges::all_of(epoch.reports, is_there)) return;
  epoch.active = true;
  const std::uint32_t max_in_flight = batches_in_flight(epoch);
  send_to_members(epoch, wire::Activate{epoch.plan.epoch, max_in_flight}, out);
  out.push_back(ActivateEpoch{epoch.plan.epoch, max_in_flight});
  log(out, LogLevel::kInfo, "epoch {} is active", epoch.plan.epoch);
}

Actions HeadSession::on_failed(std::uint32_t number, const Error& error, TimePoint) {
  Actions out;
  if (epochs_.contains(number)) fail_epoch(number, error, out);
  return out;
}

void HeadSession::on(Worker& from, const wire::Failed& failed, TimePoint, Actions& out) {
  const auto found = epochs_.find(failed.epoch);
  if (found == epochs_.end() && failed.epoch <= last_epoch_) return;
  if (found == epochs_.end() || !member_index(found->second.plan, from.info.key))
    return break_rules(from, failed, out);
  fail_epoch(failed.epoch, Error{failed.code, std::format("{}: {}", who(from), failed.message)}, out);
}

void HeadSession::on(Worker& from, const wire::Refuse& refuse, TimePoint, Actions& out) {
  const Error error{refuse.code, std::format("{} refuses: {}", who(from), refuse.message)};
  if (from.meeting != Meeting::kMet) return fail_session(error, out);
  // It can only be about the plan that it has not answered yet.
  for (auto& [number, epoch] : epochs_) {
    const auto index = member_index(epoch.plan, from.info.key);
    if (index && !epoch.reports[*index]) return fail_epoch(number, error, out);
  }
}

void HeadSession::on(Worker& from, const wire::Goodbye& goodbye, TimePoint, Actions& out) {
  fail_session(Error{ErrorCode::kPeerGone, std::format("{} left: {}", who(from), goodbye.reason)}, out);
}

void HeadSession::on(Worker& from, const wire::Heartbeat& heartbeat, TimePoint, Actions&) {
  from.info.work_done = heartbeat.work_done;
}

Actions HeadSession::tick(const Progress& own, std::uint32_t batches_in_flight, TimePoint now) {
  Actions out;
  if (!is_running()) return out;
  links_.tick(now, out);
  if (state_ == State::kContacting && now >= contact_until_) report_missing(out);

  std::vector<std::string> silent;
  for (const Liveness::Silent& report : liveness_.tick(now)) silent.push_back(report.error.message);
  if (!silent.empty()) fail_session(Error{ErrorCode::kTimeout, join(silent)}, out);

  answers_.tick();
  if (is_running() && links_wanted_) {
    survey_->tick(now, out);
    check_links(out);
  }

  const bool own_pending = !epochs_.empty() && own.steps_accepted > own.steps_done;
  if (own_stuck_.tick(own_pending, own.work_done, now))
    fail_all_epochs(stuck_error(options_.name, own, options_.liveness.stuck_limit), out);
  if (ring_stuck_.tick(!epochs_.empty() && batches_in_flight > 0, total_done(own), now))
    fail_all_epochs(ring_error(own, batches_in_flight), out);

  if (is_running() && now >= next_heartbeat_) {
    next_heartbeat_ = now + options_.liveness.heartbeat;
    const wire::Heartbeat heartbeat{.epoch = epochs_.empty() ? 0 : epochs_.rbegin()->first,
                                    .work_done = own.work_done};
    for (const Worker& worker : workers_)
      if (worker.meeting == Meeting::kMet) out.push_back(Send{worker.info.key, heartbeat});
  }
  return out;
}

void HeadSession::report_missing(Actions& out) {
  std::vector<std::string> missing;
  for (const Worker& worker : workers_) {
    if (worker.meeting == Meeting::kMet) continue;
    const std::string name = who(worker);
    if (worker.meeting == Meeting::kConnecting)
      missing.push_back(worker.last_error.empty()
                            ? std::format("{} cannot be reached", name)
                            : std::format("{} cannot be reached: {}", name, worker.last_error));
    else if (worker.meeting == Meeting::kGreeted)
      missing.push_back(std::format(
          "{} does not answer: see its own messages; it may not reach this device ({}), not know its "
          "key or run another version",
          name, options_.key.short_hex()));
    else
      missing.push_back(
          std::format("the data port {} of {} cannot be reached", worker.info.address.data_port, name));
  }
  fail_session(
      Error{ErrorCode::kTimeout,
            std::format("{} of {} devices did not join within {:.0f} s: {}", missing.size(), workers_.size(),
                        static_cast<double>(options_.contact_timeout.count()) / 1000, join(missing))},
      out);
}

std::uint64_t HeadSession::total_done(const Progress& own) const {
  std::uint64_t sum = own.work_done;
  for (const Worker& worker : workers_) sum += worker.info.work_done;
  return sum;
}

Error HeadSession::ring_error(const Progress& own, std::uint32_t batches_in_flight) const {
  std::vector<std::string> counts{std::format("{} {}", options_.name, own.work_done)};
  for (const Worker& worker : workers_)
    counts.push_back(std::format("{} {}", worker.info.name, worker.info.work_done));
  return {
      ErrorCode::kTimeout,
      std::format(
          "the ring stands still: {} batches are on their way and no device computed anything for {:.0f} s; "
          "operations so far: {}",
          batches_in_flight, static_cast<double>(ring_stuck_limit(options_.liveness).count()) / 1000,
          join(counts))};
}

Actions HeadSession::retire(std::uint32_t number, const std::string& reason, TimePoint) {
  Actions out;
  if (epochs_.contains(number)) end_epoch(number, wire::Retire{number, reason}, reason, out);
  return out;
}

Actions HeadSession::cancel(std::uint32_t number, std::uint64_t first_batch, std::uint64_t last_batch) {
  Actions out;
  const auto found = epochs_.find(number);
  if (found == epochs_.end()) return out;
  send_to_members(found->second, wire::Cancel{number, first_batch, last_batch}, out);
  out.push_back(CancelBatches{number, first_batch, last_batch});
  return out;
}

Actions HeadSession::shutdown(const std::string& reason, TimePoint) {
  Actions out;
  while (!epochs_.empty()) {
    out.push_back(FreeEpoch{epochs_.begin()->first, reason});
    epochs_.erase(epochs_.begin());
  }
  for (const DeviceKey& peer : links_.up()) out.push_back(Send{peer, wire::Goodbye{reason}});
  links_.drop_all(true, out);
  links_wanted_ = false;
  state_ = State::kClosed;
  return out;
}

void HeadSession::end_epoch(std::uint32_t number, const wire::ControlMessage& last_word,
                            const std::string& reason, Actions& out) {
  const auto node = epochs_.extract(number);
  send_to_members(node.mapped(), last_word, out);
  out.push_back(FreeEpoch{number, reason});
}

void HeadSession::break_epoch(std::uint32_t number, const Error& error, Actions& out) {
  end_epoch(number, wire::Failed{.epoch = number, .code = error.code, .message = error.message},
            error.message, out);
}

void HeadSession::fail_epoch(std::uint32_t number, const Error& error, Actions& out) {
  break_epoch(number, error, out);
  out.push_back(EpochFailed{number, error});
}

void HeadSession::fail_all_epochs(const Error& error, Actions& out) {
  while (!epochs_.empty()) fail_epoch(epochs_.begin()->first, error, out);
}

void HeadSession::fail_session(const Error& error, Actions& out) {
  if (!is_running()) return;
  state_ = State::kFailed;
  links_wanted_ = false;
  while (!epochs_.empty()) break_epoch(epochs_.begin()->first, error, out);
  out.push_back(SessionFailed{error});
}

void HeadSession::send_to_members(const Epoch& epoch, const wire::ControlMessage& message,
                                  Actions& out) const {
  for (std::size_t i = 1; i < epoch.plan.members.size(); ++i)
    if (links_.is_up(epoch.plan.members[i].key)) out.push_back(Send{epoch.plan.members[i].key, message});
}

HeadSession::Worker* HeadSession::find(const DeviceKey& key) {
  const auto found = std::ranges::find(workers_, key, [](const Worker& worker) { return worker.info.key; });
  return found == workers_.end() ? nullptr : &*found;
}

std::string HeadSession::who(const Worker& worker) const {
  return describe_peer(worker.info.name.empty() ? worker.info.key.short_hex() : worker.info.name,
                       worker.info.address);
}

std::vector<WorkerInfo> HeadSession::workers() const {
  std::vector<WorkerInfo> infos;
  for (const Worker& worker : workers_)
    if (worker.meeting >= Meeting::kLinking) infos.push_back(worker.info);
  return infos;
}

const wire::Prepare* HeadSession::loaded_plan(std::uint32_t epoch) const {
  const auto found = epochs_.find(epoch);
  return found == epochs_.end() || !found->second.reports.front() ? nullptr : &found->second.plan;
}

bool HeadSession::is_active(std::uint32_t epoch) const {
  const auto found = epochs_.find(epoch);
  return found != epochs_.end() && found->second.active;
}

std::vector<std::optional<LoadReport>> HeadSession::reports(std::uint32_t epoch) const {
  const auto found = epochs_.find(epoch);
  return found == epochs_.end() ? std::vector<std::optional<LoadReport>>{} : found->second.reports;
}

}  // namespace hearth::engine
