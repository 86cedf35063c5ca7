// SPDX-License-Identifier: MIT
// What the emulated kernels of every op share on their way to tests/ops/emulated.py: arrays between guard pages, the
// types that letters name, and messages.
#pragma once

#include <cstdint>
#include <string>

#include "common/launch.cuh"
#include "common/types.h"

namespace advkern {

using emulator::GuardedArray;

// A guarded copy, or null for null.
template <typename T>
class Input {
 public:
  Input(const void* values, int64_t count)
      : copy_(static_cast<const T*>(values), values ? size_t(count) : 0, at_end()), null_(values == nullptr) {}
  operator const T*() const { return null_ ? nullptr : copy_.data(); }

  static bool at_end() { return emulator::device.order != emulator::Order::reverse; }

 private:
  GuardedArray<T> copy_;
  bool null_;
};

template <typename T>
void copy_out(void* target, const GuardedArray<T>& source, int64_t count) {
  if (count) std::memcpy(target, static_cast<const void*>(source.data()), size_t(count) * sizeof(T));
}

// Calls function(scalar, index) with values of the types that the letters name.
template <typename Function>
cudaError_t dispatch(int scalar, int index, const Function& function) {
  const auto with = [&](auto value) { return index == 'i' ? function(value, int32_t{}) : function(value, int64_t{}); };
  return scalar == 'd'   ? with(double{})
         : scalar == 'f' ? with(float{})
         : scalar == 'h' ? with(Half{})
                         : with(BFloat16{});
}

inline const char* message_of(cudaError_t error) {
  static std::string text;
  text = error == cudaSuccess ? "" : "error " + std::to_string(int(error)) + ": " + emulator::device.message;
  return text.c_str();
}

}  // namespace advkern

extern "C" {

void set_order(int order, unsigned seed) {
  emulator::device.order = emulator::Order(order);
  emulator::device.seed = seed;
  emulator::device.message.clear();
}
}
