// Hybrid compute: which experts that a GPU's memory lacks are copied there, and which the
// host computes from its own while the activations travel (Fiddler, Kamahori et al.,
// arXiv 2402.07033; KTransformers). A pure object, fed with what things took.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace hostler {

enum class Hybrid {
  kAuto,    // what is faster, by measurement
  kOff,     // all are copied
  kAlways,  // none is, but for later: for tests
};

// Not thread-safe. Allocates nothing.
class HybridPlanner {
 public:
  struct Missing {
    int expert = 0;
    int rows = 0;        // of the step that chose it
    uint64_t bytes = 0;  // of a slot
    bool on_host = false;
  };

  explicit HybridPlanner(Hybrid mode) : mode_(mode) {}

  // A copy took so long, or the host did with an expert.
  void OnCopy(uint64_t bytes, double seconds);
  void OnHost(int rows, uint64_t bytes, double seconds);

  // What they are expected to take.
  double CopySeconds(uint64_t bytes) const { return link_ * static_cast<double>(bytes); }
  double HostSeconds(int rows, uint64_t bytes) const;
  // Whether the host is not much slower: then a copy must be worth the expert that would
  // leave for it.
  bool HostWillDo(int rows, uint64_t bytes) const;

  // Sets on_host for the missing experts of one request. The host takes those with few
  // rows, the link those with many, so that both end together; changes their order.
  void Plan(std::span<Missing> missing);

 private:
  // Of experts with 1, 2 to 3, 4 to 7 rows...
  static constexpr int kClasses = 8;

  const Hybrid mode_;
  double link_ = 1 / 12e9;                  // seconds a byte
  std::array<double, kClasses> host_ = {};  // likewise; 0: not measured
};

}  // namespace hostler
