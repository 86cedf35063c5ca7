// SPDX-License-Identifier: MIT
// The CUDA kernels under the emulator, every array between guard pages, against plain loops.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "gcn_aggregate/gcn_aggregate.cuh"

namespace {

using namespace advkern;
using emulator::GuardedArray;
using emulator::Order;

constexpr Order kOrders[] = {Order::forward, Order::reverse, Order::shuffled};
int failures = 0;

void expect(bool holds, const char* what, int64_t channels = 0, double value = 0) {
  if (holds) return;
  std::printf("%s, %d channels: %g %s\n", what, int(channels), value, emulator::device.message.c_str());
  ++failures;
}

template <typename index_t>
struct Graph {
  std::vector<int64_t> rowptr{0};
  std::vector<index_t> col;
  int64_t num_nodes() const { return int64_t(rowptr.size()) - 1; }
  int64_t num_edges() const { return int64_t(col.size()); }

  // As advkern/graph.py makes them, in plain loops.
  std::vector<int64_t> chunks() const {
    std::vector<int64_t> list;
    for (int64_t row = 0; row < num_nodes(); ++row)
      if (rowptr[size_t(row + 1)] - rowptr[size_t(row)] > kChunkEdges)
        for (int64_t e = rowptr[size_t(row)]; e < rowptr[size_t(row + 1)]; e += kChunkEdges)
          list.insert(list.end(), {row, e});
    list.insert(list.end(), {num_nodes(), num_edges(), num_nodes(), num_edges()});  // two that are not used
    return list;
  }
};

template <typename index_t>
Graph<index_t> random_graph(const std::vector<int64_t>& degrees, std::mt19937& random) {
  Graph<index_t> graph;
  for (const int64_t degree : degrees) {
    for (int64_t e = 0; e < degree; ++e) graph.col.push_back(index_t(random() % degrees.size()));
    graph.rowptr.push_back(graph.num_edges());
  }
  return graph;
}

template <typename T>
std::vector<T> random_values(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<T> values(static_cast<size_t>(count));
  for (auto& value : values) value = T(normal(random));
  return values;
}

template <typename scalar_t, typename index_t>
struct Problem {
  using acc_t = acc_of<scalar_t>;
  Graph<index_t> graph;
  int64_t channels;
  std::vector<scalar_t> x, other;
  std::vector<acc_t> weight, row_scale, col_scale, bias;

  Problem(Graph<index_t> g, int64_t channels, std::mt19937& random) : graph(std::move(g)), channels(channels) {
    x = random_values<scalar_t>(graph.num_nodes() * channels, random);
    other = random_values<scalar_t>(graph.num_nodes() * channels, random);
    weight = random_values<acc_t>(graph.num_edges(), random);
    row_scale = random_values<acc_t>(graph.num_nodes(), random);
    col_scale = random_values<acc_t>(graph.num_nodes(), random);
    bias = random_values<acc_t>(channels, random);
  }

  std::vector<scalar_t> aggregate(Order order, bool bare = false, int64_t activation = 1) const {
    return aggregate(order, bare, activation, graph.chunks());
  }

  std::vector<scalar_t> aggregate(Order order, bool bare, int64_t activation, const std::vector<int64_t>& list) const {
    const bool end = order != Order::reverse;
    const auto guarded = [&](const auto& values) { return GuardedArray(values.data(), values.size(), end); };
    const int64_t num_chunks = int64_t(list.size()) / 2;
    const auto rowptr = guarded(graph.rowptr), chunks = guarded(list);
    const auto col = guarded(graph.col);
    const auto features = guarded(x);
    const auto w = guarded(weight), r = guarded(row_scale), c = guarded(col_scale), b = guarded(bias);
    const GuardedArray<scalar_t> out(x.size(), end);
    const GuardedArray<acc_t> partial(size_t(num_chunks * partial_width<scalar_t>(channels)), end);
    const acc_t* const none = nullptr;
    const GcnAggregateFwdArgs<scalar_t, index_t> args{rowptr.data(),
                                                      col.data(),
                                                      chunks.data(),
                                                      features.data(),
                                                      bare ? none : w.data(),
                                                      bare ? none : r.data(),
                                                      bare ? none : c.data(),
                                                      bare ? none : b.data(),
                                                      out.data(),
                                                      partial.data(),
                                                      graph.num_nodes(),
                                                      graph.num_edges(),
                                                      num_chunks,
                                                      channels,
                                                      activation};
    emulator::device.order = order;
    emulator::device.message.clear();
    expect(launch_gcn_aggregate_fwd(args, nullptr) == cudaSuccess, "launch", channels);
    return {out.data(), out.data() + x.size()};
  }

  std::vector<acc_t> edge_dot(Order order) const {
    const bool end = order != Order::reverse;
    const auto guarded = [&](const auto& values) { return GuardedArray(values.data(), values.size(), end); };
    const auto rowptr = guarded(graph.rowptr);
    const auto col = guarded(graph.col);
    const auto a = guarded(x), b = guarded(other);
    const GuardedArray<acc_t> dot(graph.col.size(), end);
    const GcnAggregateEdgeDotArgs<scalar_t, index_t> args{
        rowptr.data(), col.data(), a.data(), b.data(), dot.data(), graph.num_nodes(), graph.num_edges(), channels};
    emulator::device.order = order;
    emulator::device.message.clear();
    expect(launch_gcn_aggregate_edge_dot(args, nullptr) == cudaSuccess, "edge_dot launch", channels);
    return {dot.data(), dot.data() + graph.col.size()};
  }

  // The activation's gradient: of x where the activation gave `other`.
  std::vector<scalar_t> activation_bwd(Order order, int64_t activation) const {
    const bool end = order != Order::reverse;
    const GuardedArray grad(x.data(), x.size(), end), out(other.data(), other.size(), end);
    const GuardedArray<scalar_t> result(x.size(), end);
    const GcnActivationBwdArgs<scalar_t> args{grad.data(),       out.data(), result.data(),
                                              graph.num_nodes(), channels,   activation};
    emulator::device.order = order;
    emulator::device.message.clear();
    expect(launch_gcn_aggregate_activation_bwd(args, nullptr) == cudaSuccess, "activation_bwd launch", channels);
    return {result.data(), result.data() + x.size()};
  }

  // The largest error relative to the sum of magnitudes, in units of the type's own eps; NaN counts as infinite.
  double aggregate_error(const std::vector<scalar_t>& out, bool bare) const {
    double worst = 0;
    for (int64_t i = 0; i < graph.num_nodes(); ++i)
      for (int64_t f = 0; f < channels; ++f) {
        double sum = bare ? 0 : double(bias[size_t(f)]), magnitude = std::abs(sum) + 1e-30;
        for (int64_t e = graph.rowptr[size_t(i)]; e < graph.rowptr[size_t(i + 1)]; ++e) {
          const size_t j = size_t(graph.col[size_t(e)]);
          const double factor =
              bare ? 1 : double(weight[size_t(e)]) * double(row_scale[size_t(i)]) * double(col_scale[j]);
          const double term = factor * double(x[j * size_t(channels) + size_t(f)]);
          sum += term;
          magnitude += std::abs(term);
        }
        worst = larger(worst, std::abs(double(out[size_t(i * channels + f)]) - std::max(0.0, sum)) / magnitude);
      }
    return worst / double(std::numeric_limits<scalar_t>::epsilon());
  }

  double edge_dot_error(const std::vector<acc_t>& dot) const {
    double worst = 0;
    for (int64_t i = 0; i < graph.num_nodes(); ++i)
      for (int64_t e = graph.rowptr[size_t(i)]; e < graph.rowptr[size_t(i + 1)]; ++e) {
        double sum = 0, magnitude = 1e-30;
        for (int64_t f = 0; f < channels; ++f) {
          const double term =
              double(x[size_t(i * channels + f)]) * double(other[size_t(int64_t(graph.col[size_t(e)]) * channels + f)]);
          sum += term;
          magnitude += std::abs(term);
        }
        worst = larger(worst, std::abs(double(dot[size_t(e)]) - sum) / magnitude);
      }
    return worst / double(std::numeric_limits<acc_t>::epsilon());
  }

  double activation_bwd_error(const std::vector<scalar_t>& result, int64_t activation) const {
    double worst = 0;
    for (size_t row = 0; row < x.size(); row += size_t(channels)) {
      double total = 0, magnitude = 0;
      for (size_t f = row; f < row + size_t(channels); ++f) total += double(x[f]), magnitude += std::abs(double(x[f]));
      for (size_t f = row; f < row + size_t(channels); ++f) {
        const double grad = double(x[f]), out = double(other[f]);
        const double exact = activation == kRelu  ? (out > 0 ? grad : 0)
                             : activation == kElu ? grad * (out > 0 ? 1 : out + 1)
                                                  : grad - std::exp(out) * total;
        const double scale = std::abs(grad) + (activation == kLogSoftmax ? std::exp(out) * magnitude : 0) + 1e-30;
        worst = larger(worst, std::abs(double(result[f]) - exact) / scale);
      }
    }
    return worst / double(std::numeric_limits<scalar_t>::epsilon());
  }

  static double larger(double worst, double error) {
    return error <= worst ? worst : error == error ? error : INFINITY;
  }
};

template <typename T>
bool same_bits(const std::vector<T>& left, const std::vector<T>& right) {
  return left.size() == right.size() && std::memcmp(left.data(), right.data(), left.size() * sizeof(T)) == 0;
}

template <typename T>
bool all_nan(const T* begin, const T* end) {
  return std::all_of(begin, end, [](T v) { return std::isnan(double(v)); });
}

// Rows below, at and above one chunk and two, empty ones first, last and between, and nodes enough for many columns.
const std::vector<int64_t> kDegrees = [] {
  std::vector<int64_t> degrees{0, 3, 256, 257, 0, 31, 32, 33, 700, 1, 512, 513, 8};
  degrees.resize(100, 0);
  return degrees;
}();

template <typename scalar_t, typename index_t>
void check(const char* type) {
  std::mt19937 random(0);
  for (const int64_t channels : {1, 5, 16, 31, 64, 129, 300}) {
    const Problem<scalar_t, index_t> problem(random_graph<index_t>(kDegrees, random), channels, random);
    const auto out = problem.aggregate(Order::forward), bare = problem.aggregate(Order::forward, true);
    const auto dot = problem.edge_dot(Order::forward);
    const double errors[] = {problem.aggregate_error(out, false), problem.aggregate_error(bare, true),
                             problem.edge_dot_error(dot)};
    for (const double error : errors) expect(error < 4, type, channels, error);
    for (const Order order : kOrders) {
      expect(same_bits(problem.aggregate(order), out), "another order of threads, other bits", channels);
      expect(same_bits(problem.edge_dot(order), dot), "another order of threads, other bits of edge_dot", channels);
    }
    for (const int64_t activation : {kRelu, kElu, kLogSoftmax}) {
      const auto before = problem.activation_bwd(Order::forward, activation);
      const double error = problem.activation_bwd_error(before, activation);
      expect(error < 4, "an activation's gradient", channels, error);
      for (const Order order : kOrders)
        expect(same_bits(problem.activation_bwd(order, activation), before), "another order, other bits of it",
               channels);
    }
  }
}

// The same rows behind others: every offset is another one, the bits are the same.
void check_rows_do_not_depend_on_their_place() {
  std::mt19937 random(0);
  const Problem<float, int32_t> alone(random_graph<int32_t>(kDegrees, random), 20, random);
  Problem<float, int32_t> behind = alone;
  const int64_t nodes = alone.graph.num_nodes(), edges = alone.graph.num_edges(), more = 7;
  const auto extend = [](auto& values, int64_t count) { values.insert(values.begin(), size_t(count), {}); };
  for (auto& column : behind.graph.col) column += int32_t(nodes);
  extend(behind.graph.col, more);
  for (auto& offset : behind.graph.rowptr) offset += more;
  behind.graph.rowptr.insert(behind.graph.rowptr.begin(), size_t(nodes), 0);
  extend(behind.x, nodes * 20);
  extend(behind.weight, more);
  extend(behind.row_scale, nodes);
  extend(behind.col_scale, nodes);
  auto out = behind.aggregate(Order::forward);
  out.erase(out.begin(), out.begin() + nodes * 20);
  expect(edges > 0 && same_bits(out, alone.aggregate(Order::forward)), "another place in the batch, other bits");
}

// Damage makes its own rows NaN, whatever the activation, and leaves the others as they were.
void check_damage_is_nan_and_stays_inside() {
  std::mt19937 random(0);
  const Problem<float, int32_t> whole(random_graph<int32_t>(kDegrees, random), 20, random);
  const auto row_is_nan = [](const std::vector<float>& out, int64_t row) {
    return all_nan(&out[size_t(row * 20)], &out[size_t(row * 20)] + 20);
  };
  for (const int64_t activation : {0, 1, 2}) {
    const auto sound = whole.aggregate(Order::forward, false, activation);
    for (const int32_t bad_id : {-1, 100, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
      Problem<float, int32_t> damaged = whole;
      damaged.graph.col[size_t(whole.graph.rowptr[8] + 300)] = bad_id;  // of a long row
      damaged.graph.col[1] = bad_id;                                    // of row 1
      const auto out = damaged.aggregate(Order::reverse, false, activation);
      for (int64_t row = 0; row < whole.graph.num_nodes(); ++row)
        expect(row == 1 || row == 8
                   ? row_is_nan(out, row)
                   : same_bits(std::vector<float>(&out[size_t(row * 20)], &out[size_t(row * 20)] + 20),
                               std::vector<float>(&sound[size_t(row * 20)], &sound[size_t(row * 20)] + 20)),
               "a bad id", 20, double(row));
      const auto dot = damaged.edge_dot(Order::forward);
      expect(std::isnan(dot[1]) && !std::isnan(dot[0]), "a bad id in edge_dot");
    }
  }
  for (const int64_t bad_offset : {int64_t(-7), int64_t(1) << 40}) {
    Problem<float, int32_t> damaged = whole;
    damaged.graph.rowptr[6] = bad_offset;
    const auto out = damaged.aggregate(Order::forward, false, 0, whole.graph.chunks());
    expect(row_is_nan(out, 5) && row_is_nan(out, 6) && !row_is_nan(out, 7), "a bad offset");
    const auto dot = damaged.edge_dot(Order::forward), sound = whole.edge_dot(Order::forward);
    const int64_t first = whole.graph.rowptr[5], last = whole.graph.rowptr[bad_offset < 0 ? 6 : 7];
    expect(all_nan(dot.data() + first, dot.data() + last), "a bad offset in edge_dot");
    for (size_t e = 0; e < dot.size();
         ++e)  // the search for a row may go astray at the damage, but never answers wrong
      expect(std::isnan(dot[e]) || dot[e] == sound[e], "a bad offset in edge_dot, elsewhere");
  }
  const std::vector<std::vector<int64_t>> wrong_lists = {
      {}, {3, 259, 3, 600}, {3, 259}, {-5, 0, 99, 0}, {1, 0}, {3, 260, 3, 516}, {3, 515, 3, 259}, {8, 1 << 30, 8, 0}};
  for (const auto& wrong : wrong_lists) {
    const auto out = whole.aggregate(Order::forward, false, 0, wrong);
    expect(row_is_nan(out, 3) && row_is_nan(out, 8) && !row_is_nan(out, 2), "a wrong list of chunks");
  }
}

void check_degenerate() {
  std::mt19937 random(0);
  for (const auto& degrees : {std::vector<int64_t>{}, std::vector<int64_t>{0}, std::vector<int64_t>{0, 0, 0}})
    for (const int64_t channels : {0, 1, 16}) {
      const Problem<float, int32_t> problem(random_graph<int32_t>(degrees, random), channels, random);
      expect(problem.aggregate_error(problem.aggregate(Order::forward), false) < 4, "a degenerate graph", channels);
      problem.edge_dot(Order::forward);
    }
}

}  // namespace

int main() {
  check<float, int32_t>("float32");
  check<double, int64_t>("float64");
  check<Half, int64_t>("float16");
  check<BFloat16, int32_t>("bfloat16");
  check_rows_do_not_depend_on_their_place();
  check_damage_is_nan_and_stays_inside();
  check_degenerate();
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
