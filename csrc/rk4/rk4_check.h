// SPDX-License-Identifier: MIT
// What the CPU and the CUDA glue of rk4 check alike.
#pragma once

#include <vector>

#include "common/check.h"

namespace advkern {

constexpr int64_t kMostStages = 4;

struct Rk4Tensors {
  const Tensor &y, &weight1, &bias1, &weight2, &bias2, &h;
};

struct Rk4Sizes {
  int64_t samples, dim, hidden, steps;
  bool h_per_sample;
  int stages;
};

// A tableau of s stages comes as its s rows one after another, of 1, 2, ... s numbers.
inline int stages_of(const std::vector<double>& tableau) {
  for (int64_t stages = 1; stages <= kMostStages; ++stages)
    if (int64_t(tableau.size()) == stages * (stages + 1) / 2) return int(stages);
  STD_TORCH_CHECK(false, "advkern: tableau must hold the rows of 1 to ", kMostStages, " stages, got ", tableau.size(),
                  " numbers");
}

template <typename acc_t, int kStages>
void fill_tableau(const std::vector<double>& numbers, int stages, acc_t (&tableau)[kStages][kStages]) {
  for (int row = 0, k = 0; row < stages; ++row)
    for (int column = 0; column <= row; ++column) tableau[row][column] = acc_t(numbers[size_t(k++)]);
}

inline Rk4Sizes check_rk4(const Rk4Tensors& t, const std::vector<int64_t>& save_at,
                          const std::vector<double>& tableau) {
  STD_TORCH_CHECK(t.y.dim() == 2 && t.weight1.dim() == 2 && t.h.dim() >= 1 && t.h.dim() <= 2,
                  "advkern: y and weight1 must be matrices and h a vector or a matrix");
  const Rk4Sizes sizes{t.y.size(0), t.y.size(1), t.weight1.size(0), t.h.size(0), t.h.dim() == 2, stages_of(tableau)};
  const ScalarType type = t.y.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "advkern: y must be float32 or float64, got ", type);
  check_matrix(t.y, "y", sizes.samples, t.y);
  check_matrix(t.weight1, "weight1", sizes.hidden, t.y);
  check_matrix(t.weight2, "weight2", sizes.dim, t.y);
  STD_TORCH_CHECK(t.weight1.size(1) == sizes.dim && t.weight2.size(1) == sizes.hidden,
                  "advkern: weight1 must be [hidden, dim] and weight2 [dim, hidden]");
  check_vector(t.bias1, "bias1", sizes.hidden, type, t.y);
  check_vector(t.bias2, "bias2", sizes.dim, type, t.y);
  STD_TORCH_CHECK(t.weight1.scalar_type() == type && t.weight2.scalar_type() == type && t.h.scalar_type() == type,
                  "advkern: weight1, weight2 and h must have y's type");
  STD_TORCH_CHECK(
      t.h.is_contiguous() && t.h.device() == t.y.device() && (!sizes.h_per_sample || t.h.size(1) == sizes.samples),
      "advkern: h must be contiguous, [steps] or [steps, samples], on y's device");
  int64_t last = 0;
  for (const int64_t step : save_at) {
    STD_TORCH_CHECK(last <= step && step <= sizes.steps,
                    "advkern: save_at must ascend within [0, steps = ", sizes.steps, "], got ", step);
    last = step;
  }
  return sizes;
}

// The k's of a combination: those there are, the first of them first.
inline std::vector<const Tensor*> check_stages(const Tensor& y, const std::vector<double>& factor, const Tensor& k1,
                                               const std::optional<Tensor>& k2, const std::optional<Tensor>& k3,
                                               const std::optional<Tensor>& k4) {
  std::vector<const Tensor*> stages{&k1};
  for (const std::optional<Tensor>* k : {&k2, &k3, &k4})
    if (k->has_value()) stages.push_back(&**k);
  STD_TORCH_CHECK(stages.size() == factor.size(), "advkern: factor must hold a number for each of ", stages.size(),
                  " stages, got ", factor.size());
  STD_TORCH_CHECK(y.is_contiguous(), "advkern: y must be contiguous");
  for (const Tensor* k : stages)
    STD_TORCH_CHECK(k->is_contiguous() && k->numel() == y.numel() && k->scalar_type() == y.scalar_type() &&
                        k->device() == y.device(),
                    "advkern: every k must be contiguous and have y's shape, type and device");
  return stages;
}

}  // namespace advkern
