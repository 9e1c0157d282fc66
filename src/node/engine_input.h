// What the engine thread of a node is told, by the control thread and, on the head, by whoever wants text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "wire/messages.h"

namespace hearth::node {

struct Request;  // node/generator.h

struct LoadPlan {
  wire::Prepare plan;
  std::uint16_t device;
};
struct FreePlan {
  std::uint32_t epoch;
};
struct FrameArrived {
  DeviceKey from;
  std::vector<std::uint8_t> bytes;
};
struct EpochActive {
  std::uint32_t epoch;
  std::uint32_t max_in_flight;
};
struct RingFailed {
  Error error;
};
struct Submit {
  std::shared_ptr<Request> request;
};
struct StopRequest {
  std::shared_ptr<Request> request;
};

using EngineInput =
    std::variant<LoadPlan, FreePlan, FrameArrived, EpochActive, RingFailed, Submit, StopRequest>;

}  // namespace hearth::node
