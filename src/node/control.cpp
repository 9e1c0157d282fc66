#include "node/control.h"

#include <type_traits>

namespace hearth::node {
namespace {

template <class... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};

}  // namespace

template <class Session>
void Control<Session>::run() {
  if constexpr (std::is_same_v<Session, engine::HeadSession>) {
    auto actions = session_.start(Clock::now());
    if (actions)
      carry_out(*actions);
    else
      observer_.failed(actions.error());
  } else {
    carry_out(session_.start(Clock::now()));
  }
  auto next_tick = Clock::now();
  while (!ended_) {
    send_queued();
    auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(next_tick - Clock::now());
    if (wait < std::chrono::milliseconds{0}) wait = std::chrono::milliseconds{0};
    // Asked for more at once while messages come, then what other threads want.
    for (auto event = hub_->poll(wait); event; event = hub_->poll(std::chrono::milliseconds{0})) {
      const bool woken = std::holds_alternative<net::WokenEvent>(*event);
      if (!woken) take(*event);
      if (woken || Clock::now() >= next_tick) break;
    }
    while (auto input = inputs_.try_receive()) take(*input);
    if (Clock::now() >= next_tick) {
      carry_out(tick());
      next_tick = Clock::now() + engine::kTickInterval;
    }
  }
  inputs_.close();
}

template <class Session>
void Control<Session>::send_frame(const DeviceKey& to, std::vector<std::uint8_t> frame) {
  // A peer that has gone is reported by an event.
  if (frames_left_ == 0 && hub_->send(to, net::Lane::kData, frame) != net::SendStatus::kWouldBlock) return;
  ++frames_left_;
  post(SendFrame{to, std::move(frame)});
}

template <class Session>
engine::Actions Control<Session>::tick() {
  for (const DeviceKey& sender : hub_->take_data_senders()) session_.on_data(sender, Clock::now());
  // Read in this order: accepted may run ahead, never behind.
  engine::Progress progress;
  progress.steps_done = counters_.steps_done;
  progress.work_done = counters_.work_done + progress.steps_done;  // some steps compute nothing
  progress.steps_accepted = std::max<std::uint64_t>(counters_.steps_accepted, progress.steps_done);
  if constexpr (std::is_same_v<Session, engine::HeadSession>)
    return session_.tick(progress, in_flight_, Clock::now());
  else
    return session_.tick(progress, Clock::now());
}

template <class Session>
void Control<Session>::take(ControlInput& input) {
  const auto now = Clock::now();
  std::visit(
      Overloaded{
          [&](SendFrame& send) { waiting_[send.to].data.push_back(std::move(send.frame)); },
          [&](EpochLoaded& loaded) { carry_out(session_.on_loaded(loaded.epoch, loaded.report, now)); },
          [&](EpochBroken& broken) { carry_out(session_.on_failed(broken.epoch, broken.error, now)); },
          [&](AnnounceCancel& cancel) {
            if constexpr (std::is_same_v<Session, engine::HeadSession>)
              carry_out(session_.cancel(cancel.epoch, cancel.first_batch, cancel.last_batch));
          },
          [&](MeasureLinks&) {
            if constexpr (std::is_same_v<Session, engine::HeadSession>) {
              auto actions = session_.measure_links(now);
              if (actions)
                carry_out(*actions);
              else
                observer_.failed(actions.error());
            }
          },
          [&](UsePlan& use) {
            if constexpr (std::is_same_v<Session, engine::HeadSession>) {
              auto actions = session_.prepare(use.plan, use.options, now);
              if (actions)
                carry_out(*actions);
              else
                observer_.failed(actions.error());
            }
          },
          [&](Shutdown& shutdown) {
            carry_out(session_.shutdown(shutdown.reason, now));
            ended_ = true;
          },
      },
      input);
  send_queued();
}

template <class Session>
void Control<Session>::take(net::Event& event) {
  const auto now = Clock::now();
  std::visit(Overloaded{
                 [&](net::MessageEvent& message) {
                   auto decoded = wire::decode_control(message.bytes);
                   if (decoded)
                     carry_out(session_.on_control(message.from, *decoded, now));
                   else
                     carry_out(session_.on_unreadable(message.from, decoded.error(), now));
                 },
                 [&](net::PeerUpEvent& up) { carry_out(session_.on_peer_up(up.peer, now)); },
                 [&](net::PeerGoneEvent& gone) {
                   drop_queued(gone.peer);
                   carry_out(session_.on_peer_gone(gone.peer, gone.reason, now));
                 },
                 [&](net::RefusedEvent& refused) {
                   observer_.log(engine::LogLevel::kWarning,
                                 "refused a connection from " + refused.address + ": " + refused.reason);
                 },
                 [](net::WokenEvent&) {},
             },
             event);
}

template <class Session>
void Control<Session>::carry_out(const engine::Actions& actions) {
  for (const engine::Action& action : actions) act(action);
}

template <class Session>
void Control<Session>::act(const engine::Action& action) {
  std::visit(Overloaded{
                 [&](const engine::Connect& connect) {
                   if (const auto done = hub_->connect(connect.peer, connect.address, connect.timeout); !done)
                     carry_out(session_.on_peer_gone(connect.peer, done.error(), Clock::now()));
                 },
                 [&](const engine::Disconnect& disconnect) {
                   send_queued();
                   if (disconnect.flush) hub_->flush(disconnect.peer, engine::kFlushTimeout);
                   hub_->disconnect(disconnect.peer);
                   drop_queued(disconnect.peer);
                 },
                 [&](const engine::Send& send) { send_control(send.peer, wire::encode(send.message)); },
                 [&](const engine::Allow& allow) { hub_->allow(allow.keys); },
                 [&](const engine::LoadEpoch& load) { engine_.send(LoadPlan{load.plan, load.device}); },
                 [&](const engine::ActivateEpoch& activate) {
                   engine_.send(EpochActive{activate.epoch, activate.max_in_flight});
                   if constexpr (std::is_same_v<Session, engine::HeadSession>)
                     observer_.active(activate.epoch, session_.reports(activate.epoch));
                 },
                 [&](const engine::FreeEpoch& free) {
                   recalls_.add_epoch(free.epoch);
                   engine_.send(FreePlan{free.epoch});
                 },
                 [&](const engine::CancelBatches& cancel) {
                   recalls_.add_batches({cancel.epoch, cancel.first_batch, cancel.last_batch});
                 },
                 [&](const engine::AllWelcome&) {
                   if constexpr (std::is_same_v<Session, engine::HeadSession>)
                     observer_.all_welcome(session_.workers());
                 },
                 [&](const engine::LinksMeasured&) {
                   if constexpr (std::is_same_v<Session, engine::HeadSession>)
                     observer_.links_measured(session_.links());
                 },
                 [&](const engine::EpochFailed& failed) {
                   engine_.send(RingFailed{failed.error});
                   observer_.failed(failed.error);
                 },
                 [&](const engine::SessionFailed& failed) {
                   engine_.send(RingFailed{failed.error});
                   observer_.failed(failed.error);
                 },
                 [&](const engine::Log& log) { observer_.log(log.level, log.text); },
             },
             action);
}

template <class Session>
void Control<Session>::send_control(const DeviceKey& to, net::Bytes bytes) {
  Queue& queue = waiting_[to];
  queue.control.push_back(std::move(bytes));
  send_queued();
}

// Control first. What would block stays, in order; what has no peer any more is dropped: an event says so.
template <class Session>
void Control<Session>::send_queued() {
  const auto drain = [&](const DeviceKey& to, net::Lane lane, std::deque<net::Bytes>& queue) {
    while (!queue.empty()) {
      if (hub_->send(to, lane, queue.front()) == net::SendStatus::kWouldBlock) return;
      queue.pop_front();
      if (lane == net::Lane::kData) --frames_left_;
    }
  };
  for (auto& [to, queue] : waiting_) {
    drain(to, net::Lane::kControl, queue.control);
    drain(to, net::Lane::kData, queue.data);
  }
}

template <class Session>
void Control<Session>::drop_queued(const DeviceKey& to) {
  const auto found = waiting_.find(to);
  if (found == waiting_.end()) return;
  frames_left_ -= found->second.data.size();
  waiting_.erase(found);
}

template class Control<engine::WorkerSession>;
template class Control<engine::HeadSession>;

}  // namespace hearth::node
