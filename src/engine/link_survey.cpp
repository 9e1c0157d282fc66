#include "engine/link_survey.h"

#include <algorithm>
#include <format>
#include <utility>

namespace hearth::engine {

namespace {

// Links that a warning names.
constexpr std::size_t kMostNamed = 4;

std::vector<DeviceKey> workers_of(const std::vector<wire::Member>& members) {
  std::vector<DeviceKey> keys;
  for (std::size_t i = 1; i < members.size(); ++i) keys.push_back(members[i].key);
  return keys;
}

std::string describe(const plan::LinkProfile& link) {
  const double ms = link.latency_s * 1e3, mbit_per_s = link.bytes_per_s * 8e-6;
  const std::string rate = link.bytes_per_s > 0
                               ? std::format("{:.{}f} Mbit/s", mbit_per_s, mbit_per_s < 10 ? 1 : 0)
                               : std::string("too fast to tell its rate");
  return std::format("{:.{}f} ms, {}", ms, ms < 1 ? 2 : 1, rate);
}

}  // namespace

LinkSurvey::LinkSurvey(std::vector<wire::Member> members, std::vector<wire::Address> head_addresses,
                       std::uint32_t first_id, TimePoint now, Actions& out)
    : members_(std::move(members)),
      head_addresses_(std::move(head_addresses)),
      first_id_(first_id),
      next_id_(first_id),
      own_(workers_of(members_), std::uint64_t{first_id} << 32, now, out),
      asked_(members_.size()),
      until_(now + kSurveyLimit),
      stage_until_(until_),
      links_(members_.size(), std::vector<std::optional<plan::LinkProfile>>(members_.size())) {
  HEARTH_CHECK(head_addresses_.size() + 1 == members_.size(), "an address of the head for each worker");
  check(now, out);
}

void LinkSurvey::on_reply(const DeviceKey& from, const wire::ProbeReply& reply, TimePoint now, Actions& out) {
  if (stage_ != Stage::kOwn) return;
  own_.on_reply(from, reply, now, out);
  for (std::size_t i = 1; i < members_.size(); ++i)
    if (const auto link = own_.links().find(members_[i].key); link != own_.links().end())
      links_[0][i] = link->second;
  check(now, out);
}

Result<> LinkSurvey::on_report(const DeviceKey& from, const wire::LinkReport& report, TimePoint now,
                               Actions& out) {
  const auto member = std::ranges::find(members_, from, &wire::Member::key);
  HEARTH_CHECK(member != members_.end(), "a report of a stranger");
  const auto index = static_cast<std::size_t>(member - members_.begin());
  if (report.id < first_id_) return {};  // of a survey that another one replaced
  Asked& asked = asked_[index];
  if (report.id > asked.id || (report.id == asked.id && asked.answered))
    return fail(ErrorCode::kProtocol, "a LinkReport answers the Measure {}, expected {}", report.id,
                asked.id == 0 || asked.answered ? "none" : std::format("{}", asked.id));
  for (const wire::MeasuredLink& link : report.links)
    if (link.member >= members_.size() || link.member == index)
      return fail(ErrorCode::kProtocol, "a LinkReport has a link to member {} of {}, expected another device",
                  link.member, members_.size());
  if (done() || report.id != asked.id) return {};  // too late
  asked.answered = true;
  for (const wire::MeasuredLink& link : report.links) links_[index][link.member] = link_of(link);
  check(now, out);
  return {};
}

void LinkSurvey::tick(TimePoint now, Actions& out) {
  if (stage_ == Stage::kOwn) own_.tick(now, out);
  check(now, out);
}

// Goes on to the next stage where this one is over.
void LinkSurvey::check(TimePoint now, Actions& out) {
  if (stage_ == Stage::kOwn && own_.done()) {
    connect_workers(now, out);
  } else if (stage_ == Stage::kConnecting && (all_answered() || now >= stage_until_)) {
    stage_ = Stage::kTurns;
    next_turn(now, out);
  } else if (stage_ == Stage::kTurns && (asked_[turn_].answered || now >= stage_until_)) {
    next_turn(now, out);
  }
  if (now >= until_) end();
}

void LinkSurvey::connect_workers(TimePoint now, Actions& out) {
  stage_ = members_.size() == 1 ? Stage::kDone : Stage::kConnecting;
  stage_until_ = now + kConnectLimit + kAnswerMargin;
  for (std::size_t i = 1; i < members_.size(); ++i) measure(i, Milliseconds{0}, out);
}

void LinkSurvey::next_turn(TimePoint now, Actions& out) {
  ++turn_;
  if (turn_ == members_.size()) return end();
  // What one does not need the next ones may have.
  const auto left = std::chrono::duration_cast<Milliseconds>(until_ - now);
  const Milliseconds share = left / static_cast<std::int64_t>(members_.size() - turn_);
  stage_until_ = now + share;
  measure(turn_, std::clamp(share - kAnswerMargin, Milliseconds{1}, kSurveyLimit), out);
}

void LinkSurvey::measure(std::size_t member, Milliseconds time, Actions& out) {
  asked_[member] = {.id = next_id_++};
  wire::Measure message{
      .id = asked_[member].id, .time_ms = static_cast<std::uint32_t>(time.count()), .members = members_};
  message.members.front().address = head_addresses_[member - 1];
  out.push_back(Send{members_[member].key, std::move(message)});
}

bool LinkSurvey::all_answered() const {
  return std::ranges::all_of(asked_.begin() + 1, asked_.end(), &Asked::answered);
}

void LinkSurvey::describe(Actions& out) const {
  std::string assumed;  // the first few
  std::size_t n_assumed = 0;
  for (std::size_t from = 0; from < members_.size(); ++from) {
    for (std::size_t to = 0; to < members_.size(); ++to) {
      if (from == to) continue;
      const std::string pair = std::format("{} -> {}", members_[from].name, members_[to].name);
      if (const auto& link = links_[from][to])
        out.push_back(Log{LogLevel::kDebug, std::format("{}: {}", pair, engine::describe(*link))});
      else if (n_assumed++ < kMostNamed)
        assumed += (assumed.empty() ? "" : ", ") + pair;
    }
  }
  if (n_assumed == 0) return;
  if (n_assumed > kMostNamed) assumed += std::format(" and {} more", n_assumed - kMostNamed);
  out.push_back(Log{LogLevel::kWarning,
                    std::format("not measured in time: the link{} {}; a plan assumes {}",
                                n_assumed == 1 ? "" : "s", assumed, engine::describe(plan::kAssumedLink))});
}

}  // namespace hearth::engine
