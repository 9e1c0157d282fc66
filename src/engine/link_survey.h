// LinkSurvey: how a head has all links of the ring measured, each direction of each pair, before it makes a
// plan.
//
//   Own --workers probed--> Connecting --each has linked to the others--> Turns: one worker probes after the
//   other
//   --> done
// Links of a home share one Wi-Fi, so only one device measures at a time. Each Measure is answered by one
// LinkReport with the same id; all together takes at most kSurveyLimit, and what is not there by then is left
// out.
//
// Pure. Thread contract: none; one thread owns it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/actions.h"
#include "engine/link_prober.h"
#include "plan/profiles.h"
#include "wire/messages.h"

namespace hearth::engine {

// [from][to] in the order of members; nothing where a link was not measured, and from a device to itself.
using LinkMatrix = std::vector<std::vector<std::optional<plan::LinkProfile>>>;

// All together. A tick later it is seen that it is over.
inline constexpr Milliseconds kSurveyLimit{9500};
// Of the time for a worker's answer, what its way, its ticks and ours may take.
inline constexpr Milliseconds kAnswerMargin{600};

class LinkSurvey {
 public:
  // members[0] is the head; worker i reaches it at head_addresses[i - 1]. Probes and Measures are numbered
  // from `first_id`.
  LinkSurvey(std::vector<wire::Member> members, std::vector<wire::Address> head_addresses,
             std::uint32_t first_id, TimePoint now, Actions& out);

  void on_reply(const DeviceKey& from, const wire::ProbeReply& reply, TimePoint now, Actions& out);
  // kProtocol: the report answers nothing that this worker was asked, or names no other member. One that
  // comes too late is no error.
  [[nodiscard]] Result<> on_report(const DeviceKey& from, const wire::LinkReport& report, TimePoint now,
                                   Actions& out);
  void tick(TimePoint now, Actions& out);
  // With what is there.
  void end() { stage_ = Stage::kDone; }

  [[nodiscard]] bool done() const { return stage_ == Stage::kDone; }
  [[nodiscard]] const LinkMatrix& links() const { return links_; }
  [[nodiscard]] std::uint32_t next_id() const { return next_id_; }
  // A line for each pair: "laptop -> phone: 2.1 ms, 310 Mbit/s"; those that are missing in one warning.
  void describe(Actions& out) const;

 private:
  enum class Stage : std::uint8_t { kOwn, kConnecting, kTurns, kDone };
  struct Asked {
    std::uint32_t id = 0;  // of its last Measure; 0: none yet
    bool answered = false;
  };

  void check(TimePoint now, Actions& out);
  void connect_workers(TimePoint now, Actions& out);
  void next_turn(TimePoint now, Actions& out);
  void measure(std::size_t member, Milliseconds time, Actions& out);
  [[nodiscard]] bool all_answered() const;

  std::vector<wire::Member> members_;
  std::vector<wire::Address> head_addresses_;
  std::uint32_t first_id_, next_id_;
  Stage stage_ = Stage::kOwn;
  LinkProber own_;
  std::vector<Asked> asked_;  // by member
  std::size_t turn_ = 0;      // the member that measures
  TimePoint until_, stage_until_;
  LinkMatrix links_;
};

}  // namespace hearth::engine
