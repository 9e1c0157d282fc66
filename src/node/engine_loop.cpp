#include "node/engine_loop.h"

#include <chrono>
#include <new>
#include <type_traits>

#include "base/os_memory.h"
#include "wire/codec.h"

namespace hearth::node {
namespace {

// How long batches wait for the next chunk of their prompt: longer than a frame of 4 MiB is on its way at
// home, shorter than what it saves, a pass over all streamed weights.
constexpr std::chrono::milliseconds kPatience{250};

// What `work` gives; running out of memory ends the epoch, not the program.
template <class Work>
auto with_memory(std::uint32_t epoch, Work work) -> decltype(work()) {
  const Error none_left = {ErrorCode::kOutOfMemory, "this device has no memory left"};
  try {
    return work();
  } catch (const std::bad_alloc&) {
    if constexpr (std::is_same_v<typename decltype(work())::error_type, Executor::Failure>)
      return std::unexpected(Executor::Failure{epoch, none_left});
    else
      return std::unexpected(none_left);
  }
}

}  // namespace

void run_engine(EngineInbox& inputs, Recalls& recalls, Executor& executor, Generator* generator,
                const EngineLoopHooks& hooks) {
  const auto check = [&](const Executor::Outcome& outcome) {
    if (outcome) return;
    executor.free(outcome.error().epoch);
    // Whoever took it back knows why.
    if (recalls.has(outcome.error().epoch)) return;
    if (generator != nullptr) generator->fail_all(outcome.error().error);
    hooks.broken(outcome.error().epoch, outcome.error().error);
  };
  executor.abort_when([&recalls](std::uint32_t epoch) { return recalls.has(epoch); });
  bool more = false;
  while (true) {
    const std::optional<std::uint32_t> waiting = executor.waiting();
    auto input = more                              ? inputs.try_receive()
                 : !waiting                        ? inputs.receive()
                 : executor.expects_more(*waiting) ? inputs.receive_for(kPatience)
                                                   : inputs.try_receive();
    if (!input && (inputs.closed() || (!more && !waiting))) return;
    for (const Recalls::Batches& batches : recalls.take_batches())
      executor.cancel(batches.epoch, batches.first, batches.last);
    if (input)
      std::visit(
          [&](auto& in) {
            using In = std::decay_t<decltype(in)>;
            if constexpr (std::is_same_v<In, LoadPlan>) {
              const std::uint32_t epoch = in.plan.epoch;
              hooks.loaded(epoch, with_memory(epoch, [&] {
                             auto report = executor.load(in.plan, in.device,
                                                         {.repack = in.plan.repack,
                                                          .anonymous_limit = hooks.memory(),
                                                          .progress = hooks.load_progress,
                                                          .cancelled = [&] { return recalls.has(epoch); }});
                             give_back_freed_memory();
                             return report;
                           }));
            } else if constexpr (std::is_same_v<In, FreePlan>) {
              executor.free(in.epoch);
              give_back_freed_memory();
              recalls.forget(in.epoch);
              if (hooks.freed) hooks.freed(in.epoch);
            } else if constexpr (std::is_same_v<In, FrameArrived>) {
              const auto head = wire::peek_batch_frame(in.bytes);
              if (head && recalls.has(head->epoch)) return;
              check(with_memory(head ? head->epoch : 0,
                                [&] { return executor.on_frame(in.from, std::move(in.bytes)); }));
            } else if constexpr (std::is_same_v<In, EpochActive>) {
              executor.activate(in.epoch, in.max_in_flight);
              if (generator != nullptr) generator->activate(in.epoch, in.max_in_flight);
            } else if constexpr (std::is_same_v<In, RingFailed>) {
              if (generator != nullptr) generator->fail_all(in.error);
            } else if constexpr (std::is_same_v<In, Submit>) {
              if (generator == nullptr) return;
              const auto taken = with_memory(0, [&]() -> Result<> {
                generator->submit(in.request);
                return {};
              });
              if (!taken) fail_request(*in.request, taken.error());
            } else if constexpr (std::is_same_v<In, StopRequest>) {
              if (generator != nullptr) generator->stop(in.request);
            }
          },
          *input);
    // Only when nothing else is to be done, so that they are computed with all that came meanwhile.
    if (!input && !more && waiting) check(with_memory(*waiting, [&] { return executor.run_waiting(); }));
    if (generator == nullptr) continue;
    const auto pumped = with_memory(generator->epoch(), [&] { return generator->pump(); });
    more = pumped.value_or(false);
    if (!pumped) check(std::unexpected(pumped.error()));
  }
}

}  // namespace hearth::node
