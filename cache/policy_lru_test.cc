#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "cache/policy.h"

namespace hostler {
namespace {

bool Any(ExpertKey) { return true; }

int Victim(EvictionPolicy* policy, const std::function<bool(ExpertKey)>& evictable = Any) {
  ExpertKey victim;
  return policy->PickVictim(evictable, &victim) ? victim.expert : -1;
}

void Ask(EvictionPolicy* policy, const std::vector<int>& experts) { policy->OnRequest(0, experts); }

TEST(LruPolicyTest, NobodyLeavesAnEmptyCache) {
  auto policy = NewLruPolicy();
  EXPECT_EQ(Victim(policy.get()), -1);
  Ask(policy.get(), {1, 2});
  EXPECT_EQ(Victim(policy.get()), -1) << "asked for, but not resident";
}

TEST(LruPolicyTest, TheLeastRecentlyRequestedLeavesFirst) {
  auto policy = NewLruPolicy();
  Ask(policy.get(), {1, 2, 3});
  for (int expert : {3, 2, 1}) policy->OnInsert({0, expert});  // reads end in any order
  EXPECT_EQ(Victim(policy.get()), 1);
  Ask(policy.get(), {1});
  EXPECT_EQ(Victim(policy.get()), 2);
  policy->OnErase({0, 2});
  EXPECT_EQ(Victim(policy.get()), 3);
}

TEST(LruPolicyTest, OnlyEvictableOnesLeave) {
  auto policy = NewLruPolicy();
  Ask(policy.get(), {1, 2});
  policy->OnInsert({0, 1});
  policy->OnInsert({0, 2});
  EXPECT_EQ(Victim(policy.get(), [](ExpertKey key) { return key.expert != 1; }), 2);
  EXPECT_EQ(Victim(policy.get(), [](ExpertKey) { return false; }), -1);
}

TEST(LruPolicyTest, LayersShareOneOrder) {
  auto policy = NewLruPolicy();
  policy->OnRequest(3, std::vector<int>{7});
  policy->OnInsert({3, 7});
  policy->OnRequest(0, std::vector<int>{7});
  policy->OnInsert({0, 7});
  ExpertKey victim;
  ASSERT_TRUE(policy->PickVictim(Any, &victim));
  EXPECT_EQ(victim, (ExpertKey{3, 7}));
}

TEST(LruPolicyTest, AnExpertWhoseReadFailedIsForgotten) {
  auto policy = NewLruPolicy();
  Ask(policy.get(), {1, 2});
  policy->OnInsert({0, 1});
  policy->OnErase({0, 1});
  policy->OnInsert({0, 2});
  EXPECT_EQ(Victim(policy.get()), 2);
  Ask(policy.get(), {1});
  policy->OnInsert({0, 1});
  EXPECT_EQ(Victim(policy.get()), 2);
}

// One (token, layer) of a recorded trace; in prefill the union over the prompt.
struct Request {
  bool decode;
  int layer;
  std::vector<int> experts;
};

struct Trace {
  int num_experts = 0;  // of all layers
  std::vector<Request> requests;
};

int HeaderField(const std::string& line, const std::string& name) {
  const size_t at = line.find(name + "=");
  return at == std::string::npos ? 0 : std::stoi(line.substr(at + name.size() + 1));
}

Trace ReadTrace(const std::string& path) {
  Trace trace;
  std::ifstream file(path);
  std::string line;
  int topk = 0;
  while (std::getline(file, line)) {
    if (line[0] == '#' && topk == 0 && (topk = HeaderField(line, "topk")) != 0) {
      trace.num_experts = HeaderField(line, "layers") * HeaderField(line, "experts");
    }
    if (line[0] < '0' || line[0] > '9') continue;
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream fields(line);
    int phase = 0, step = 0, layer = 0;
    fields >> phase >> step >> layer;
    std::vector<Request>& requests = trace.requests;
    if (phase == 1 || requests.empty() || requests.back().layer != layer) {
      requests.push_back({phase == 1, layer, {}});
    }
    std::vector<int>& experts = requests.back().experts;
    for (int i = 0; i < topk; ++i) {
      int expert = 0;
      fields >> expert;
      if (std::find(experts.begin(), experts.end(), expert) == experts.end()) {
        experts.push_back(expert);
      }
    }
  }
  return trace;
}

// Hits in decode, by the definition in the traces' README.
int DecodeHits(const Trace& trace, int capacity, bool warm, EvictionPolicy* policy) {
  std::set<std::pair<int, int>> resident;
  int hits = 0;
  for (const Request& request : trace.requests) {
    if (!request.decode && !warm) continue;
    policy->OnRequest(request.layer, request.experts);
    std::set<int> members(request.experts.begin(), request.experts.end());
    std::vector<int> missing;
    for (int expert : request.experts) {
      if (!resident.contains({request.layer, expert})) missing.push_back(expert);
    }
    if (request.decode) hits += request.experts.size() - missing.size();
    for (int expert : missing) {
      if (resident.size() == capacity) {
        ExpertKey victim;
        const bool found = policy->PickVictim(
            [&](ExpertKey key) {
              return resident.contains({key.layer, key.expert}) &&
                     !(key.layer == request.layer && members.contains(key.expert));
            },
            &victim);
        if (!found) continue;
        resident.erase({victim.layer, victim.expert});
        policy->OnErase(victim);
      }
      resident.insert({request.layer, expert});
      policy->OnInsert({request.layer, expert});
    }
  }
  return hits;
}

TEST(LruPolicyTest, ReplaysRecordedTracesWithTheExactCounts) {
  struct Row {
    const char* trace;
    double fraction;
    bool warm;
    int capacity;
    int hits;
  };
  const Row kRows[] = {
      {"qwen", 0.1, true, 614, 13346},  {"qwen", 0.2, true, 1229, 19971},
      {"qwen", 0.1, false, 614, 13303}, {"gptoss", 0.1, true, 461, 1884},
      {"olmoe", 0.2, true, 205, 12170}, {"olmoe", 0.1, true, 102, 0},
  };
  const std::string folder = HOSTLER_SOURCE_DIR "/../shared/data/expert-traces/";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no traces in " << folder;
  std::map<std::string, Trace> traces;
  for (const Row& row : kRows) {
    if (!traces.contains(row.trace)) traces[row.trace] = ReadTrace(folder + row.trace + ".csv");
    const Trace& trace = traces[row.trace];
    EXPECT_EQ(static_cast<int>(row.fraction * trace.num_experts + 0.5), row.capacity);
    auto policy = NewLruPolicy();
    EXPECT_EQ(DecodeHits(trace, row.capacity, row.warm, policy.get()), row.hits)
        << row.trace << " " << row.fraction << (row.warm ? " warm" : " cold");
  }
}

}  // namespace
}  // namespace hostler
