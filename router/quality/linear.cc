#include "router/quality/linear.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hostler {
namespace {

uint64_t NextRandom(uint64_t* state) {  // SplitMix64
  uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

void Shuffle(std::vector<int32_t>* order, uint64_t* state) {
  for (size_t i = order->size(); i > 1; --i) {
    std::swap((*order)[i - 1], (*order)[NextRandom(state) % i]);
  }
}

void AddOuter(std::span<const Feature> x, const float* values, Matrix* out) {
  for (const Feature& feature : x) {
    float* row = out->row(feature.index);
    for (int64_t k = 0; k < out->cols; ++k) row[k] += feature.value * values[k];
  }
}

// Column sums of a * b.
std::vector<double> Dots(const Matrix& a, const Matrix& b) {
  std::vector<double> dots(a.cols);
  for (int64_t r = 0; r < a.rows; ++r) {
    const float *x = a.row(r), *y = b.row(r);
    for (int64_t k = 0; k < a.cols; ++k) dots[k] += static_cast<double>(x[k]) * y[k];
  }
  return dots;
}

}  // namespace

void Multiply(std::span<const Feature> x, const Matrix& weights, std::span<float> out) {
  std::fill(out.begin(), out.end(), 0.0f);
  for (const Feature& feature : x) {
    const float* row = weights.row(feature.index);
    for (int64_t k = 0; k < weights.cols; ++k) out[k] += feature.value * row[k];
  }
}

void Softmax(std::span<float> logits) {
  if (logits.empty()) return;
  const float most = *std::max_element(logits.begin(), logits.end());
  float sum = 0;
  for (float& value : logits) sum += value = std::exp(value - most);
  for (float& value : logits) value /= sum;
}

void SoftmaxModel::Logits(std::span<const Feature> x, std::span<float> out) const {
  Multiply(x, weights, out);
  for (size_t k = 0; k < bias.size(); ++k) out[k] += bias[k];
}

SoftmaxModel FitSoftmax(const FeatureRows& x, std::span<const int32_t> labels, int classes,
                        int64_t features, const SoftmaxOptions& options) {
  SoftmaxModel model{Matrix(features, classes), std::vector<float>(classes)};
  std::vector<float> seen(features, 1e-6f);  // AdaGrad's sum, one for each feature
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::vector<float> gradient(classes);
  uint64_t state = 7;
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    Shuffle(&order, &state);
    for (const int32_t i : order) {
      model.Logits(x[i], gradient);
      Softmax(gradient);
      gradient[labels[i]] -= 1;
      float length = 0;
      for (const float g : gradient) length += g * g;
      for (int k = 0; k < classes; ++k) model.bias[k] -= 0.02f * gradient[k];
      for (const Feature& feature : x[i]) {
        float& sum = seen[feature.index];
        sum += feature.value * feature.value * length;
        const float rate = options.rate / std::sqrt(sum);
        float* row = model.weights.row(feature.index);
        const float step = rate * feature.value, keep = 1 - rate * options.decay;
        for (int k = 0; k < classes; ++k) row[k] = keep * row[k] - step * gradient[k];
      }
    }
  }
  return model;
}

Matrix FitRidge(const FeatureRows& x, const Matrix& targets, int64_t features,
                std::span<const float> penalties, int steps) {
  const int64_t cols = targets.cols;
  Matrix solution(features, cols), gradient(features, cols);
  for (size_t i = 0; i < x.size(); ++i) AddOuter(x[i], targets.row(i), &gradient);
  Matrix direction = gradient, product(features, cols);
  std::vector<double> rest = Dots(gradient, gradient);
  const std::vector<double> first = rest;
  std::vector<float> values(cols), step(cols);
  for (int n = 0; n < steps; ++n) {
    for (int64_t j = 0; j < features; ++j) {
      for (int64_t k = 0; k < cols; ++k) {
        product.row(j)[k] = penalties[k] * direction.row(j)[k];
      }
    }
    for (const auto& row : x) {
      Multiply(row, direction, values);
      AddOuter(row, values.data(), &product);
    }
    const std::vector<double> curve = Dots(direction, product);
    for (int64_t k = 0; k < cols; ++k) {
      step[k] = rest[k] > 1e-10 * first[k] && curve[k] > 0 ? rest[k] / curve[k] : 0;
    }
    for (int64_t r = 0; r < features; ++r) {
      for (int64_t k = 0; k < cols; ++k) {
        solution.row(r)[k] += step[k] * direction.row(r)[k];
        gradient.row(r)[k] -= step[k] * product.row(r)[k];
      }
    }
    const std::vector<double> next = Dots(gradient, gradient);
    for (int64_t k = 0; k < cols; ++k) step[k] = rest[k] > 0 ? next[k] / rest[k] : 0;
    for (int64_t r = 0; r < features; ++r) {
      for (int64_t k = 0; k < cols; ++k) {
        direction.row(r)[k] = gradient.row(r)[k] + step[k] * direction.row(r)[k];
      }
    }
    rest = next;
  }
  return solution;
}

Matrix Eigenvectors(Matrix a) {
  const int64_t n = a.rows;
  Matrix v(n, n);
  for (int64_t i = 0; i < n; ++i) v.row(i)[i] = 1;
  for (int sweep = 0; sweep < 30; ++sweep) {
    for (int64_t p = 0; p < n; ++p) {
      for (int64_t q = p + 1; q < n; ++q) {
        const double apq = a.row(p)[q];
        if (std::abs(apq) < 1e-12) continue;
        const double theta = (a.row(q)[q] - a.row(p)[p]) / (2 * apq);
        const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const float c = 1 / std::sqrt(t * t + 1), s = t * c;
        const auto turn = [&](float* x, float* y) {
          const float old = *x;
          *x = c * old - s * *y;
          *y = s * old + c * *y;
        };
        for (int64_t k = 0; k < n; ++k) turn(&a.row(k)[p], &a.row(k)[q]);
        for (int64_t k = 0; k < n; ++k) turn(&a.row(p)[k], &a.row(q)[k]);
        for (int64_t k = 0; k < n; ++k) turn(&v.row(k)[p], &v.row(k)[q]);
      }
    }
  }
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t x, int64_t y) { return a.row(x)[x] > a.row(y)[y]; });
  Matrix out(n, n);
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t r = 0; r < n; ++r) out.row(r)[k] = v.row(r)[order[k]];
  }
  return out;
}

}  // namespace hostler
