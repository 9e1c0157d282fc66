// EngineLoop: the engine thread of a node: the one thread that computes. Takes EngineInputs in order until
// its channel is closed.
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "node/engine_inbox.h"
#include "node/executor.h"
#include "node/generator.h"
#include "node/recalls.h"

namespace hearth::node {

struct EngineLoopHooks {
  std::function<void(std::uint32_t epoch, Result<engine::LoadReport>)> loaded;
  std::function<void(std::uint32_t epoch, Error)> broken;
  residency::LoadProgress load_progress;           // may be empty
  std::function<void(std::uint32_t epoch)> freed;  // may be empty
};

// Runs on the calling thread. `generator` is null on a worker. `memory_limit`: anonymous memory an epoch may
// take, in bytes.
void run_engine(EngineInbox& inputs, Recalls& recalls, Executor& executor, Generator* generator,
                const EngineLoopHooks& hooks, std::uint64_t memory_limit);

}  // namespace hearth::node
