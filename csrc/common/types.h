// SPDX-License-Identifier: MIT
// The four scalar types and what each accumulates in. Torch-free but for torch's header-only half types.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace advkern {

using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;

template <typename scalar_t>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename scalar_t>
using acc_of = typename Accumulate<scalar_t>::type;

}  // namespace advkern
