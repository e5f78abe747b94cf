// Fitting linear models of sparse features. Deterministic, one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "router/quality/prompt_features.h"

namespace hostler {

// Row-major.
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;

  Matrix() = default;
  Matrix(int64_t r, int64_t c) : rows(r), cols(c), values(static_cast<size_t>(r * c)) {}
  float* row(int64_t r) { return values.data() + r * cols; }
  const float* row(int64_t r) const { return values.data() + r * cols; }
};

// Examples: rows of features, by reference.
using FeatureRows = std::vector<std::span<const Feature>>;

// out = x W: [W.cols].
void Multiply(std::span<const Feature> x, const Matrix& weights, std::span<float> out);

// In place.
void Softmax(std::span<float> logits);

struct SoftmaxModel {
  Matrix weights;           // [features, classes]
  std::vector<float> bias;  // [classes]

  void Logits(std::span<const Feature> x, std::span<float> out) const;
};

struct SoftmaxOptions {
  int epochs = 12;
  float rate = 1.0f;    // of AdaGrad
  float decay = 2e-6f;  // L2, of each step
};

// Multinomial logistic regression; labels < classes.
SoftmaxModel FitSoftmax(const FeatureRows& x, std::span<const int32_t> labels, int classes,
                        int64_t features, const SoftmaxOptions& options);

// argmin |x W - targets|^2 + penalty |W|^2, each target with its own penalty, by
// conjugate gradients: [features, targets.cols].
Matrix FitRidge(const FeatureRows& x, const Matrix& targets, int64_t features,
                std::span<const float> penalties, int steps);

// Eigenvectors of a symmetric matrix as columns, the largest value first
// (Jacobi).
Matrix Eigenvectors(Matrix symmetric);

}  // namespace hostler
