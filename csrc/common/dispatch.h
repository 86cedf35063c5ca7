// SPDX-License-Identifier: MIT
// From run-time types to template arguments: `function` is called with a value of the scalar and of the id type.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

namespace advkern {

template <typename Function>
void dispatch_ids(torch::headeronly::ScalarType type, const Function& function) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Int:
      return function(int32_t{});
    case ScalarType::Long:
      return function(int64_t{});
    default:
      STD_TORCH_CHECK(false, "advkern: ids must be int32 or int64, got ", type);
  }
}

template <typename Function>
void dispatch_floats(torch::headeronly::ScalarType type, const Function& function) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Float:
      return function(float{});
    case ScalarType::Double:
      return function(double{});
    case ScalarType::Half:
      return function(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return function(torch::headeronly::BFloat16{});
    default:
      STD_TORCH_CHECK(false, "advkern: x must be float16, bfloat16, float32 or float64, got ", type);
  }
}

// Calls function(scalar, index) with values of both types.
template <typename Function>
void dispatch(torch::headeronly::ScalarType floats, torch::headeronly::ScalarType ids, const Function& function) {
  dispatch_floats(floats, [&](auto scalar) { dispatch_ids(ids, [&](auto index) { function(scalar, index); }); });
}

}  // namespace advkern
