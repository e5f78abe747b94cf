#include <vector>

#include "cache/policy.h"

namespace hostler {
namespace {

// A list in the order of the last request. The members of the running request
// are in it from OnRequest on, resident or not, so that an expert that comes in
// late stands where it was asked for and not where its read ended.
class LruPolicy : public EvictionPolicy {
 public:
  LruPolicy() : nodes_(1) {}

  std::string_view name() const override { return "lru"; }

  void OnRequest(const ExpertRequest& request) override {
    for (const int node : running_) {
      if (!nodes_[node].resident) Unlink(node);
    }
    running_.clear();
    for (const int expert : request.experts) {
      const int node = NodeOf({request.layer, expert});
      Unlink(node);
      LinkLast(node);
      running_.push_back(node);
    }
  }

  void OnInsert(ExpertKey key) override {
    const int node = NodeOf(key);
    nodes_[node].resident = true;
    if (nodes_[node].next == kUnlinked) LinkLast(node);
  }

  void OnErase(ExpertKey key) override {
    const int node = NodeOf(key);
    nodes_[node].resident = false;
    Unlink(node);
  }

  bool PickVictim(const std::function<bool(ExpertKey)>& evictable, ExpertKey* victim) override {
    for (int node = nodes_[kHead].next; node != kHead; node = nodes_[node].next) {
      if (!nodes_[node].resident || !evictable(nodes_[node].key)) continue;
      *victim = nodes_[node].key;
      return true;
    }
    return false;
  }

 private:
  static constexpr int kHead = 0;  // nodes_[0]: next is the first, prev the last
  static constexpr int kUnlinked = -1;

  struct Node {
    ExpertKey key;
    int prev = kHead;
    int next = kHead;
    bool resident = false;
  };

  int NodeOf(ExpertKey key) {
    if (key.layer >= node_of_.size()) node_of_.resize(key.layer + 1);
    std::vector<int>& layer = node_of_[key.layer];
    if (key.expert >= layer.size()) layer.resize(key.expert + 1, kHead);
    int& node = layer[key.expert];
    if (node == kHead) {
      node = static_cast<int>(nodes_.size());
      nodes_.push_back({key, kUnlinked, kUnlinked, false});
    }
    return node;
  }

  void Unlink(int node) {
    Node& n = nodes_[node];
    if (n.next == kUnlinked) return;
    nodes_[n.prev].next = n.next;
    nodes_[n.next].prev = n.prev;
    n.prev = n.next = kUnlinked;
  }

  void LinkLast(int node) {
    const int last = nodes_[kHead].prev;
    nodes_[node].prev = last;
    nodes_[node].next = kHead;
    nodes_[last].next = node;
    nodes_[kHead].prev = node;
  }

  std::vector<Node> nodes_;                // every expert ever named
  std::vector<std::vector<int>> node_of_;  // [layer][expert]; kHead: none yet
  std::vector<int> running_;               // nodes of the running request
};

}  // namespace

std::unique_ptr<EvictionPolicy> NewLruPolicy() { return std::make_unique<LruPolicy>(); }

}  // namespace hostler
